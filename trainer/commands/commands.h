// The commands of the program: the options of each, and the function that runs it.
// trainer/command_line.h fills the options; commands never see the command line. Every command is
// called by all ranks.
#ifndef TRAINER_COMMANDS_COMMANDS_H_
#define TRAINER_COMMANDS_COMMANDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "model/parallel/communicator.h"
#include "trainer/config/device_choice.h"

namespace salamander {

// Text, JSONL or ready-made ids to a token file.
struct TokenizeCommand {
  std::vector<std::string> inputs;            // files and directories
  std::vector<std::string> patterns = {"*"};  // of names inside directories
  std::string out;                            // token file
  std::string tokenizer = "bytes";  // "bytes", a SentencePiece .model, or "ids" with `vocabulary`
  int64_t train_vocabulary = 0;     // > 0: learn a SentencePiece model of this size from the inputs
  int64_t train_bytes = int64_t{8} << 20;  // of text that it learns from
  std::string tokenizer_out;  // where to write the learnt model; empty: only inside the token file
  int64_t vocabulary = 0;     // of ready-made ids
  int32_t eos_id = -1;        // of ready-made ids
  std::string text_field = "text";
  int64_t max_bytes = 0;  // stop after this much text; 0: all
  bool add_bos = false;
};
absl::Status RunTokenize(const TokenizeCommand& command, Communicator& world);

// HuggingFace folder to checkpoint.
struct ImportCommand {
  std::string folder;
  std::string out;
};
absl::Status RunImport(const ImportCommand& command, Communicator& world);

// Checkpoint, or the last one of a run, to a HuggingFace folder.
struct ExportCommand {
  std::string from;
  std::string out;
  std::string dtype = "bf16";  // or "fp32"
  int64_t shard_bytes = int64_t{5} << 30;
};
absl::Status RunExport(const ExportCommand& command, Communicator& world);

// Full attention to candidates (`all`) or candidates to the hybrid (`keep`).
struct ConvertCommand {
  std::string from;
  std::string out;
  bool all = false;
  std::string keep;             // keep.yaml, or a list "0,3,11"
  std::string gate = "random";  // or "open"
  bool rope_in_kept_layers = false;
  uint64_t seed = 0;
  std::string sparse;  // a YAML file of the sparse section; empty: the published values
  std::string data;    // token file the parity report is measured on; empty: pseudo-random tokens
  int64_t report_tokens = 4096;
  DeviceChoice device = DeviceChoice::kAuto;  // that the report's models run on
};
absl::Status RunConvert(const ConvertCommand& command, Communicator& world);

// Which layers stay softmax.
struct SelectCommand {
  std::string config;  // select.yaml
  std::string out;     // keep.yaml; the score table goes beside it
  DeviceChoice device = DeviceChoice::kAuto;
};
absl::Status RunSelect(const SelectCommand& command, Communicator& world);

struct TrainCommand {
  std::string recipe;
  std::vector<std::string> overrides;  // "stages[1].peak_lr=1e-4"
  bool plan = false;                   // print what would run, and stop
};
absl::Status RunTrain(const TrainCommand& command, Communicator& world);

// Held-out loss and recall of a checkpoint.
struct EvaluateCommand {
  std::string from;
  std::string data;                 // token file
  std::string teacher;              // a checkpoint: also KL to it
  double held_out_fraction = 0.02;  // as in the recipe that trained it
  int64_t sequence_length = 1024;
  int64_t sequences = 64;
  std::vector<int64_t> recall_lengths;  // none: no recall
  int64_t recall_samples = 16;          // a length
  int64_t recall_pairs = 8;
  std::string json;  // also write the result here
  DeviceChoice device = DeviceChoice::kAuto;
};
absl::Status RunEvaluate(const EvaluateCommand& command, Communicator& world);

// Times ops and whole steps.
struct BenchCommand {
  std::string model = "configs/models/minicpm4_8b.yaml";  // a dense model's shape, and
  int64_t layers = 8;                                     // so many layers of it, of which
  std::string keep = "0,7";                               // these stay softmax, or "all"
  bool sparse = false;                                    // those with sparse attention
  std::vector<int64_t> tokens;                            // empty: 32K on CUDA, 1K on the CPU
  bool ops = true;
  bool step = true;
  std::vector<int64_t> decode;                 // context lengths to take steps at
  std::vector<int64_t> decode_batch = {1, 8};  // sequences that step together
  std::vector<int64_t> prefill;                // lengths of prompts
  std::string only;                            // ops whose name matches this regular expression
  std::string recomputation = "none";
  int repetitions = 10;
  std::string json;
  DeviceChoice device = DeviceChoice::kAuto;
};
absl::Status RunBench(const BenchCommand& command, Communicator& world);

struct GenerateCommand {
  std::string from;
  std::string prompt;
  std::string prompt_file;  // instead of prompt
  int64_t max_new_tokens = 128;
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  uint64_t seed = 0;
  DeviceChoice device = DeviceChoice::kAuto;
};
absl::Status RunGenerate(const GenerateCommand& command, Communicator& world);

// What a checkpoint, a run, a token file or a HuggingFace folder holds.
struct InspectCommand {
  std::string path;
  bool verify = false;  // also read everything against its checksums
};
absl::Status RunInspect(const InspectCommand& command, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_COMMANDS_H_
