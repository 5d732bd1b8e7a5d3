// A HuggingFace config.json. One that is accepted can be written and read back.

#include "model/checkpoint/huggingface/hf_config.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = salamander::ParseHfConfig("config.json", salamander::TextOf(data, size));
  if (!config.ok()) {
    salamander::CheckRefusal(config.status());
    return 0;
  }
  SALAMANDER_CHECK(config->model.Validate().ok()) << "an accepted config does not validate";
  const auto text = salamander::HfConfigText(config->model, {});
  if (!text.ok()) {
    salamander::CheckRefusal(text.status());
    return 0;
  }
  const auto again = salamander::ParseHfConfig("written.json", *text);
  SALAMANDER_CHECK(again.ok()) << again.status().ToString() << "\n" << *text;
  return 0;
}
