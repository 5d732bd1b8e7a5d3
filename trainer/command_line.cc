#include "trainer/command_line.h"

#include <algorithm>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/logging.h"
#include "trainer/commands/commands.h"

namespace salamander {
namespace {

constexpr double kUnlimited = 1e18;

using Run = std::function<absl::Status()>;

// An option's range. CLI11's own names the other end of it too, in 309 digits.
std::function<std::string(const std::string&)> Within(double low, double high) {
  return [low, high](const std::string& text) -> std::string {
    double value = 0.0;
    if (absl::SimpleAtod(text, &value) && value >= low && value <= high) return "";
    return absl::StrCat(text, "; expected a number of ", low,
                        high < kUnlimited ? absl::StrCat(" to ", high) : " or more");
  };
}
std::function<std::string(const std::string&)> AtLeast(double low) {
  return Within(low, kUnlimited);
}

void AddDeviceOption(CLI::App* command, DeviceChoice& device) {
  const auto index_of = [](const std::string& text) {
    return std::find(std::begin(kDeviceChoices), std::end(kDeviceChoices), text) - kDeviceChoices;
  };
  command
      ->add_option_function<std::string>(
          "--device",
          [&device, index_of](const std::string& text) {
            device = static_cast<DeviceChoice>(index_of(text));
          },
          "auto (a GPU if there is one), cpu or cuda")
      ->check([index_of](const std::string& text) -> std::string {
        if (index_of(text) < std::ssize(kDeviceChoices)) return "";
        return absl::StrCat(text, "; expected one of ", absl::StrJoin(kDeviceChoices, ", "));
      })
      ->default_str("auto");
}

// One subcommand: its options live as long as the parse, its run is kept where the user chose it.
class CommandLine {
 public:
  explicit CommandLine(Communicator& world) : world_(world) {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", SALAMANDER_VERSION);
    AddTokenize();
    AddImport();
    AddConvert();
    AddTrain();
    AddSelect();
    AddEvaluate();
    AddGenerate();
    AddExport();
    AddInspect();
    AddBench();
  }

  CLI::App& app() { return app_; }

  std::vector<std::string> CommandNames() {
    std::vector<std::string> names;
    for (const CLI::App* command : app_.get_subcommands([](CLI::App*) { return true; }))
      names.push_back(command->get_name());
    return names;
  }
  const Run& chosen() const { return chosen_; }

 private:
  template <typename Command>
  std::pair<CLI::App*, std::shared_ptr<Command>> Add(
      const std::string& name, const std::string& purpose, const std::string& example,
      absl::Status (*run)(const Command&, Communicator&)) {
    auto options = std::make_shared<Command>();
    CLI::App* command = app_.add_subcommand(name, purpose);
    command->footer("Example:\n  salamander " + example);
    command->callback(
        [this, options, run] { chosen_ = [this, options, run] { return run(*options, world_); }; });
    return {command, options};
  }

  void AddTokenize() {
    auto [command, options] = Add<TokenizeCommand>(
        "tokenize", "Turn text, JSONL or ready-made ids into a token file",
        "tokenize /usr/include --pattern '*.h' --train 4096 --out tokens.h5", RunTokenize);
    command->add_option("inputs", options->inputs, "files and directories")->required();
    command->add_option("--pattern", options->patterns, "names to take inside directories")
        ->capture_default_str();
    command->add_option("--out", options->out, "token file to write")->required();
    command->add_option("--tokenizer", options->tokenizer, "bytes, a SentencePiece .model, or ids")
        ->capture_default_str();
    command
        ->add_option("--train", options->train_vocabulary,
                     "learn a SentencePiece model of this many pieces")
        ->check(AtLeast(0));
    command->add_option("--train-bytes", options->train_bytes, "of text that it learns from")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--tokenizer-out", options->tokenizer_out,
                        "also write the learnt .model here");
    command->add_option("--vocabulary", options->vocabulary, "number of ids, with --tokenizer ids")
        ->check(AtLeast(0));
    command->add_option("--eos-id", options->eos_id,
                        "id that ends a document, with --tokenizer ids");
    command->add_option("--text-field", options->text_field, "JSONL field with the text")
        ->capture_default_str();
    command->add_option("--max-bytes", options->max_bytes, "stop after this much text")
        ->check(AtLeast(0));
    command->add_flag("--bos", options->add_bos, "begin each document with the tokenizer's bos");
  }

  void AddImport() {
    auto [command, options] =
        Add<ImportCommand>("import", "Read a HuggingFace folder into a checkpoint",
                           "import hf_dir/ --out base.ckpt", RunImport);
    command->add_option("folder", options->folder, "config.json and safetensors")->required();
    command->add_option("--out", options->out, "checkpoint directory to write")->required();
  }

  void AddConvert() {
    auto [command, options] = Add<ConvertCommand>(
        "convert", "Put Lightning candidates beside all layers, or drop the losers",
        "convert base.ckpt --all --out candidates.ckpt", RunConvert);
    command->add_option("from", options->from, "checkpoint or run")->required();
    command->add_option("--out", options->out, "checkpoint directory to write")->required();
    CLI::Option* all = command->add_flag("--all", options->all, "a candidate beside every layer");
    CLI::Option* keep = command->add_option("--keep", options->keep,
                                            "layers that stay softmax: keep.yaml, or 0,3,11");
    all->excludes(keep);
    command->add_option("--gate", options->gate, "start of new gates: random or open")
        ->capture_default_str();
    command->add_flag("--rope-in-kept-layers", options->rope_in_kept_layers,
                      "RoPE leaves them by a stage's switch");
    command->add_option("--seed", options->seed, "of fresh weights")
        ->check(AtLeast(0))
        ->capture_default_str();
    command->add_option("--sparse", options->sparse,
                        "YAML file with the sparse section of the kept layers");
    command->add_option("--data", options->data, "token file for the parity report");
    command
        ->add_option("--report-tokens", options->report_tokens, "tokens the report is measured on")
        ->check(AtLeast(1))
        ->capture_default_str();
    AddDeviceOption(command, options->device);
  }

  void AddTrain() {
    auto [command, options] =
        Add<TrainCommand>("train", "Walk the stages of a recipe, or go on where its run stopped",
                          "train recipe.yaml --set stages[1].peak_lr=1e-4", RunTrain);
    command->add_option("recipe", options->recipe, "recipe.yaml")->required();
    command->add_option("--set", options->overrides, "key=value in place of the recipe's");
    command->add_flag("--plan", options->plan, "print what would run, and stop");
  }

  void AddSelect() {
    auto [command, options] =
        Add<SelectCommand>("select", "Choose by data which layers stay softmax",
                           "select select.yaml --out keep.yaml", RunSelect);
    command->add_option("config", options->config, "select.yaml")->required();
    command->add_option("--out", options->out, "keep.yaml to write")->required();
    AddDeviceOption(command, options->device);
  }

  void AddEvaluate() {
    auto [command, options] = Add<EvaluateCommand>(
        "evaluate", "Held-out loss and recall of a checkpoint",
        "evaluate run/ --data tokens.h5 --recall-lengths 1024 4096", RunEvaluate);
    command->add_option("from", options->from, "checkpoint or run")->required();
    command->add_option("--data", options->data, "token file")->required();
    command->add_option("--teacher", options->teacher, "checkpoint to measure KL against");
    command->add_option("--held-out", options->held_out_fraction, "share of documents set aside")
        ->check(Within(0, 0.5))
        ->capture_default_str();
    command->add_option("--sequence-length", options->sequence_length, "tokens of one sequence")
        ->check(AtLeast(2))
        ->capture_default_str();
    command->add_option("--sequences", options->sequences, "held-out sequences")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--recall-lengths", options->recall_lengths, "lengths of recall samples")
        ->check(AtLeast(2));
    command->add_option("--recall-samples", options->recall_samples, "for each length")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--recall-pairs", options->recall_pairs, "key-value pairs of a sample")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--json", options->json, "also write the result here");
    AddDeviceOption(command, options->device);
  }

  void AddGenerate() {
    auto [command, options] =
        Add<GenerateCommand>("generate", "Continue a text with a checkpoint",
                             "generate run/ --prompt '#include <'", RunGenerate);
    command->add_option("from", options->from, "checkpoint or run")->required();
    CLI::Option* prompt = command->add_option("--prompt", options->prompt, "text to continue");
    command->add_option("--prompt-file", options->prompt_file, "file with the text to continue")
        ->excludes(prompt);
    command->add_option("--max-new-tokens", options->max_new_tokens, "tokens to add")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--temperature", options->temperature, "0 takes the likeliest")
        ->check(AtLeast(0))
        ->capture_default_str();
    command->add_option("--top-k", options->top_k, "only the k likeliest; 0: all")
        ->check(AtLeast(0))
        ->capture_default_str();
    command->add_option("--top-p", options->top_p, "only the likeliest up to this share")
        ->check(Within(0, 1))
        ->capture_default_str();
    command->add_option("--seed", options->seed, "of the sampling")
        ->check(AtLeast(0))
        ->capture_default_str();
    AddDeviceOption(command, options->device);
  }

  void AddExport() {
    auto [command, options] =
        Add<ExportCommand>("export", "Write a checkpoint as a HuggingFace folder",
                           "export run/ --out hf_dir/", RunExport);
    command->add_option("from", options->from, "checkpoint or run")->required();
    command->add_option("--out", options->out, "folder to write")->required();
    command->add_option("--dtype", options->dtype, "bf16 or fp32")->capture_default_str();
    command->add_option("--shard-bytes", options->shard_bytes, "largest safetensors file")
        ->check(AtLeast(1))
        ->capture_default_str();
  }

  void AddInspect() {
    auto [command, options] =
        Add<InspectCommand>("inspect", "Say what a checkpoint, run, token file or HF folder holds",
                            "inspect base.ckpt", RunInspect);
    command->add_option("path", options->path, "what to look at")->required();
    command->add_flag("--verify", options->verify, "also check every checksum");
  }

  void AddBench() {
    auto [command, options] = Add<BenchCommand>(
        "bench", "Time ops, whole steps and generation against this machine's own ceilings",
        "bench --tokens 32768 --only 'lightning|dense' --no-step --decode 32768", RunBench);
    command->add_option("--model", options->model, "a dense model's shape")->capture_default_str();
    command->add_option("--layers", options->layers, "so many of its layers; 0: all")
        ->check(AtLeast(0))
        ->capture_default_str();
    command->add_option("--keep", options->keep, "layers that stay softmax; all: the model itself")
        ->capture_default_str();
    command->add_flag("--sparse", options->sparse, "with sparse attention in those layers");
    command->add_option("--tokens", options->tokens, "lengths; the default fits the device")
        ->check(AtLeast(1));
    command->add_option("--only", options->only, "ops whose name matches this");
    command->add_flag("!--no-ops", options->ops, "leave the ops out");
    command->add_flag("!--no-step", options->step, "leave whole steps out");
    command->add_option("--decode", options->decode, "also steps of generation at these lengths")
        ->check(AtLeast(1));
    command->add_option("--decode-batch", options->decode_batch, "sequences in such a step")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--prefill", options->prefill, "also prompts of these lengths")
        ->check(AtLeast(1));
    command->add_option("--recomputation", options->recomputation, "none, attention or full")
        ->capture_default_str();
    command->add_option("--repetitions", options->repetitions, "timed runs of each")
        ->check(AtLeast(1))
        ->capture_default_str();
    command->add_option("--json", options->json, "also write the figures here");
    AddDeviceOption(command, options->device);
  }

  Communicator& world_;
  CLI::App app_{
      "Turns full-attention language models into sparse + linear hybrids and trains them on",
      "salamander"};
  Run chosen_;
};

}  // namespace

CommandOutcome RunCommandLine(int argc, char** argv, Communicator& world) {
  CommandLine line(world);
  const std::vector<std::string> names = line.CommandNames();
  if (argc > 1 && argv[1][0] != '-' &&
      std::find(names.begin(), names.end(), argv[1]) == names.end()) {
    if (world.rank() == 0) {
      std::cerr << "salamander " << argv[1] << ": there is no such command; expected one of "
                << absl::StrJoin(names, ", ") << "\n";
    }
    return {.exit_code = 2, .status = absl::OkStatus()};
  }
  try {
    line.app().parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (world.rank() == 0) line.app().exit(error, std::cout, std::cerr);
    return {.exit_code = error.get_exit_code() == 0 ? 0 : 2, .status = absl::OkStatus()};
  }
  const absl::Status status = line.chosen()();
  return {.exit_code = status.ok() ? 0 : 1, .status = status};
}

}  // namespace salamander
