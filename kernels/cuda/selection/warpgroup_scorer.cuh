// A scoring warpgroup of block selection: see the head of block_selection_hopper.cu.
#ifndef KERNELS_CUDA_SELECTION_WARPGROUP_SCORER_CUH_
#define KERNELS_CUDA_SELECTION_WARPGROUP_SCORER_CUH_

#include <cstdint>

#include "kernels/cuda/selection/warpgroup_selection.cuh"

namespace salamander::cuda::warpgroup_selection {

// A scoring warpgroup.
template <int kD>
class Scorer {
 public:
  __device__ Scorer(const SelectArgs& args, const SharedMemory<kD>& memory, int scorer)
      : args_(args),
        memory_(memory),
        warp_query_(scorer * kScorerQueries +
                    static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 2),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ void Run() {
    VisitTiles(args_, [&](const SelectionTile& tile) {
      if (!tile.IsScored(args_)) return;
      LoadQueries();
      Score(tile);
    });
  }

 private:
  // Of the tile, the lane's.
  __device__ int Query() const { return warp_query_ + lane_ / 16; }

  __device__ void LoadQueries() {
    Barriers& barriers = memory_.barriers();
    SharedBarrier(&barriers.queries_full).Wait(queries_.FullParity());
    const SharedTile<kD> rows = memory_.Queries();
    const int row = lane_ % 8, half = lane_ / 8 % 2;  // of the matrix that the lane gives a row of
#pragma unroll
    for (int product = 0; product < 2; ++product) {
      const int head = row % 4 + 4 * (2 * product + half);
      const int tile_row = (warp_query_ + row / 4) * kGroup + head;
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
        LoadMatrices(left_[product][step], rows.Address(tile_row, 2 * step + lane_ / 16));
      }
    }
    __syncwarp();
    if (IsFirstLane()) SharedBarrier(&barriers.queries_empty).Arrive();
    queries_.Advance();
  }

  __device__ void Score(const SelectionTile& tile) {
    Barriers& barriers = memory_.barriers();
    const KeyTiles tiles(args_, tile.LastPosition());
    const int64_t position = tile.position + Query();
    const auto seen = static_cast<int>(args_.coarse.Count(position + 1));
    const auto seen_by_all = static_cast<int>(args_.coarse.Count(tile.position + 1));
    Reset();
    for (int first = 0; first < tiles.coarse * kWindows; first += kWindows) {
      MeetKeys([] {},
               [&](int product) {
                 if (first + kWindows > seen_by_all) Mask(seen - first);
                 Normalise(product);
               });
    }
    FinishNormalisers();
    const int buffer = scores_.Slot();
    const int end = Query() < tile.queries ? static_cast<int>(args_.CandidatesEnd(position)) : 0;
    float* const scores = ScoresOf(args_, buffer, Query());
    SharedBarrier(&barriers.scores_empty[buffer]).Wait(scores_.EmptyParity());
    const auto store_scores = [&](int first) {
      const unsigned score = BlockScore();
      const int block = first + lane_ % 16;
      if (block < static_cast<int>(args_.init_blocks) || block >= end) return;
      scores[block] = __uint_as_float(score);
      atomicAdd(memory_.Counts(buffer, Query()) + ScoreBin::Of(score), 1);
    };
    const auto exponentiate = [&](int product) { Exponentiate(product); };
    MeetKeys([] {}, exponentiate);
    const int last = (tiles.fine - 1) * kBlocks;
    for (int first = 0; first < last; first += kBlocks) {
      MeetKeys([&] { store_scores(first); }, exponentiate);
    }
    store_scores(last);
    __syncwarp();
    if (IsFirstLane()) SharedBarrier(&barriers.scores_full[buffer]).Arrive();
    scores_.Advance();
  }

  // Multiplies with the next tile of keys and calls work_on(0) and work_on(1) when the accumulators
  // hold the one product and the other, and meanwhile() while the first is under way.
  template <typename Meanwhile, typename WorkOn>
  __device__ void MeetKeys(const Meanwhile& meanwhile, const WorkOn& work_on) {
    Barriers& barriers = memory_.barriers();
    SharedBarrier(&barriers.keys_full[keys_.Slot()]).Wait(keys_.FullParity());
    StartProduct(left_[0]);
    meanwhile();
    FinishProduct();
    work_on(0);
    StartProduct(left_[1]);
    FinishProduct();
    if (IsFirstLane()) SharedBarrier(&barriers.keys_empty[keys_.Slot()]).Arrive();
    keys_.Advance();
    work_on(1);
  }

  __device__ void Reset() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      maximum_[i / 2][i % 2] = -INFINITY;
      sum_[i / 2][i % 2] = 0.0F;
    }
    reaching_ = 0;
  }

  __device__ void StartProduct(const uint32_t (&left)[kD / 16][4]) {
    const uint32_t keys = memory_.Keys(keys_.Slot());
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      const uint32_t panel = keys + step / 4 * SharedMemory<kD>::kPanelBytes;
      WarpgroupMultiplyAdd<false>(d_, left[step], AlongColumns(panel, 0, step % 4 * 16), step > 0);
    }
    CommitProducts();
  }

  __device__ void FinishProduct() {
    WaitForProducts<0>();
    HoldProduct(d_);
  }

  // Leaves the first `seen` windows of the tile.
  __device__ void Mask(int seen) {
    const int lane_window = lane_ % 4 * kWindowsPerBlock;
#pragma unroll
    for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (WindowOfRow(8 * i) + j % 2 + lane_window >= seen) d_[i][j] = -INFINITY;
      }
    }
  }

  // Adds the lane's windows to its shares of the normalisers of its two rows in a product.
  __device__ void Normalise(int product) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int i = 0; i < kWindows / 8; ++i) {
        largest = fmaxf(largest, fmaxf(d_[i][2 * half], d_[i][2 * half + 1]));
      }
      float& maximum = maximum_[product][half];
      const float before = maximum;
      maximum = fmaxf(before, largest * args_.scale);
      const float shift = maximum == -INFINITY ? 0.0F : maximum;
      float added[2] = {0.0F, 0.0F};
#pragma unroll
      for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          added[j] += Exp2(fmaf(d_[i][2 * half + j], args_.scale, -shift));
      }
      float& sum = sum_[product][half];
      sum = sum * Exp2(before - shift) + (added[0] + added[1]);
    }
  }

  // The coarse log-sum-exp of the lane's rows, in base 2, with its sign reversed, in maximum_;
  // -infinity where a row sees no coarse key or where it is NaN, so that weights become
  // 2^-infinity, or NaN where NaN is.
  __device__ void FinishNormalisers() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& maximum = maximum_[i / 2][i % 2];
      float largest = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 2));
      float sum = sum_[i / 2][i % 2] * Exp2(maximum - (largest == -INFINITY ? 0.0F : largest));
      sum += __shfl_xor_sync(kFullMask, sum, 1);
      sum += __shfl_xor_sync(kFullMask, sum, 2);
      maximum = sum > 0.0F ? -(largest + log2f(sum)) : -INFINITY;
    }
  }

  // Adds the weights of the lane's two rows in a product to weights_, by window.
  __device__ void Exponentiate(int product) {
#pragma unroll
    for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float pair = Exp2(fmaf(d_[i][j], args_.scale, maximum_[product][0])) +
                           Exp2(fmaf(d_[i][j + 2], args_.scale, maximum_[product][1]));
        float& weight = weights_[2 * i + j];
        weight = product == 0 ? pair : weight + pair;
      }
    }
  }

  // Of the first 2 kCount windows or the others, as the lane's bit `lane_bit` says, the sums of the
  // lane's and the lane's across.
  template <int kCount>
  __device__ void SumAcross(int lane_bit) {
    const bool is_upper = (lane_ & lane_bit) != 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float sent = is_upper ? weights_[i] : weights_[i + kCount];
      const float kept = is_upper ? weights_[i + kCount] : weights_[i];
      weights_[i] = kept + __shfl_xor_sync(kFullMask, sent, lane_bit);
    }
  }

  // The bits of the score of the query's block lane % 16 of a tile of keys. A NaN is read, not
  // passed over: by its bits it is above infinity, as which it counts.
  __device__ unsigned BlockScore() {
    SumAcross<8>(8);
    SumAcross<4>(4);
    unsigned windows[kWindowsPerBlock];
#pragma unroll
    for (int i = 0; i < kWindowsPerBlock; ++i) windows[i] = __float_as_uint(weights_[i]);
    const unsigned last = windows[kWindowsPerBlock - 1];
    const unsigned sent = lane_ % 16 == 15 ? reaching_ : last;
    reaching_ = last;
    const unsigned from_before = __shfl_sync(kFullMask, sent, lane_ / 16 * 16 + (lane_ + 15) % 16);
    const unsigned own = max(max(windows[0], windows[1]), max(windows[2], windows[3]));
    return min(max(own, from_before), kHighestScore);
  }

  const SelectArgs& args_;
  const SharedMemory<kD>& memory_;
  const int warp_query_, lane_;
  RingPlace<kStages> keys_;
  RingPlace<1> queries_;
  RingPlace<kScoreBuffers> scores_;
  uint32_t left_[2][kD / 16][4];
  float d_[kWindows / 8][4];
  float maximum_[2][2], sum_[2][2];  // [product, half]
  float weights_[kWindows / 4];
  unsigned reaching_;  // the lane's last window of the tile of keys before
};

}  // namespace salamander::cuda::warpgroup_selection

#endif  // KERNELS_CUDA_SELECTION_WARPGROUP_SCORER_CUH_
