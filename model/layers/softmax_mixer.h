// Softmax attention over segments: dense, or InfLLM-V2 block-sparse where the configuration asks
// and the document (or the query) is long enough. With RoPE and QK-norm it is Llama's or Qwen3's;
// without RoPE and with a gate it is SALA's.
#ifndef MODEL_LAYERS_SOFTMAX_MIXER_H_
#define MODEL_LAYERS_SOFTMAX_MIXER_H_

#include "model/config.h"
#include "model/layers/mixer.h"
#include "model/layers/projections.h"

namespace salamander {

class SoftmaxMixer : public Mixer {
 public:
  SoftmaxMixer(const SoftmaxConfig& config, double norm_epsilon, const MixerTensors& weights);

  absl::Status Forward(const MixerPass& pass, TensorView input, TensorView output,
                       MixerActivations& saved) const override;
  absl::Status Backward(const MixerPass& pass, TensorView input, const MixerActivations& saved,
                        TensorView d_output, TensorView d_input,
                        const MixerTensors& gradients) const override;

 private:
  // How many tensor ranks hold the rank's heads of keys and values.
  int Holders(const MixerPass& pass) const;
  absl::Status AttentionForward(const MixerPass& pass, MixerActivations& saved) const;
  absl::Status SparseForward(const MixerPass& pass, Segments segments, TensorView keys,
                             TensorView values, const MixerActivations& saved) const;
  absl::Status AttentionBackward(const MixerPass& pass, const MixerActivations& saved,
                                 TensorView d_attention, const QkvGradients& d) const;

  SoftmaxConfig config_;
  ProjectionShape shape_;
  MixerTensors weights_;
  double scale_;
};

}  // namespace salamander

#endif  // MODEL_LAYERS_SOFTMAX_MIXER_H_
