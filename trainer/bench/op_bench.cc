#include "trainer/bench/op_bench.h"

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "trainer/bench/cases/op_cases.h"

namespace salamander {
namespace {

absl::StatusOr<BenchRow> BenchOp(const BenchMemory& memory, const Ceilings& ceilings,
                                 const OpCase& op_case, int repetitions) {
  const ArenaScope scope(memory.tensors);
  const ExecutionContext context = memory.session.Context(memory.scratch);
  RandomTensors tensors(context, memory.tensors, memory.session.activation_dtype());
  const OpRun prepared = op_case.prepare(tensors);
  RETURN_IF_ERROR(tensors.status());
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   memory.session.Time([&] { return prepared.run(context); }, repetitions));
  return RowOf(op_case.name, op_case.shape, {.flops = prepared.flops, .bytes = prepared.bytes},
               seconds, ceilings);
}

}  // namespace

absl::StatusOr<std::regex> OnlyPattern(const std::string& only) {
  try {
    return std::regex(only);
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--only '", only, "' is no regular expression (", error.what(),
                     "); expected a part of an op's name, as 'lightning' or 'dense|sparse'"));
  }
}

absl::StatusOr<std::vector<BenchRow>> BenchOps(const BenchMemory& memory, const Ceilings& ceilings,
                                               const OpBenchOptions& options) {
  const CaseStream stream = CaseStream::Of(options.config, {options.tokens});
  std::vector<BenchRow> rows;
  for (const OpCase& op_case : OpCases(stream)) {
    if (!std::regex_search(op_case.name, options.only)) continue;
    const auto row = BenchOp(memory, ceilings, op_case, options.repetitions);
    RETURN_IF_ERROR(Annotate(row.status(), absl::StrCat(op_case.name, " ", op_case.shape)));
    rows.push_back(*row);
  }
  return rows;
}

}  // namespace salamander
