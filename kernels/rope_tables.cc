#include "kernels/rope_tables.h"

#include "kernels/dispatch.h"

namespace salamander {

absl::Status RopeTables(const ExecutionContext& context, const RopeTablesArgs& args) {
  CHECK_SAME_SHAPE(args.cosines, args.sines);
  SALAMANDER_CHECK(static_cast<int64_t>(args.short_frequencies.size()) == args.cosines.dim(1) &&
                   static_cast<int64_t>(args.long_frequencies.size()) == args.cosines.dim(1))
      << args.short_frequencies.size() << " and " << args.long_frequencies.size()
      << " frequencies, cosines " << args.cosines.ShapeString();
  DISPATCH_BACKEND(RopeTables, context, args);
}

}  // namespace salamander
