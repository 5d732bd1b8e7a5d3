// Lightning linear attention with HyPE's half of the positions: per-head norm and RoPE on queries
// and keys, fixed decay per head, one RMSNorm over all heads of the result, a sigmoid gate. Source:
// arXiv 2602.11761 sec. 2.1.
#ifndef MODEL_LAYERS_LIGHTNING_MIXER_H_
#define MODEL_LAYERS_LIGHTNING_MIXER_H_

#include <vector>

#include "absl/types/span.h"

#include "model/config.h"
#include "model/layers/mixer.h"
#include "model/layers/projections.h"

namespace salamander {

class LightningMixer : public Mixer {
 public:
  LightningMixer(const LightningConfig& config, double norm_epsilon, const MixerTensors& weights);

  absl::Status Forward(const MixerPass& pass, TensorView input, TensorView output,
                       MixerActivations& saved) const override;
  absl::Status Backward(const MixerPass& pass, TensorView input, const MixerActivations& saved,
                        TensorView d_output, TensorView d_input,
                        const MixerTensors& gradients) const override;

 private:
  // Of the rank's heads.
  absl::Span<const double> Slopes(const MixerPass& pass) const;

  ProjectionShape shape_;
  MixerTensors weights_;
  double scale_;
  std::vector<double> slopes_;  // of all heads of all ranks
};

}  // namespace salamander

#endif  // MODEL_LAYERS_LIGHTNING_MIXER_H_
