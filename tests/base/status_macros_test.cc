#include "kernels/base/status_macros.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

absl::Status ReturnAfter(const absl::Status& status, bool& reached_end) {
  RETURN_IF_ERROR(status);
  reached_end = true;
  return absl::OkStatus();
}

absl::StatusOr<int> AddOne(absl::StatusOr<int> value) {
  ASSIGN_OR_RETURN(const int number, std::move(value));
  return number + 1;
}

absl::StatusOr<std::string> JoinTwo(absl::StatusOr<std::string> left,
                                    absl::StatusOr<std::string> right) {
  ASSIGN_OR_RETURN(std::string joined, std::move(left));
  ASSIGN_OR_RETURN(const std::string tail, std::move(right));
  return joined + tail;
}

absl::StatusOr<int> Unwrap(absl::StatusOr<std::unique_ptr<int>> pointer) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> owned, std::move(pointer));
  return *owned;
}

TEST(StatusMacrosTest, ReturnIfErrorReturnsTheErrorAtOnce) {
  bool reached_end = false;
  const absl::Status status = ReturnAfter(absl::NotFoundError("no such tensor"), reached_end);
  EXPECT_EQ(status, absl::NotFoundError("no such tensor"));
  EXPECT_FALSE(reached_end);
}

TEST(StatusMacrosTest, ReturnIfErrorGoesOnAfterOk) {
  bool reached_end = false;
  EXPECT_TRUE(ReturnAfter(absl::OkStatus(), reached_end).ok());
  EXPECT_TRUE(reached_end);
}

TEST(StatusMacrosTest, ReturnIfErrorIsOneStatement) {
  const auto checked = [](bool check) -> absl::Status {
    if (check)
      RETURN_IF_ERROR(absl::InternalError("checked"));
    else
      return absl::OkStatus();
    return absl::OkStatus();
  };
  EXPECT_FALSE(checked(true).ok());
  EXPECT_TRUE(checked(false).ok());
}

TEST(StatusMacrosTest, AssignOrReturnGivesTheValueOrTheError) {
  EXPECT_EQ(AddOne(41).value(), 42);
  EXPECT_EQ(AddOne(absl::DataLossError("torn")).status(), absl::DataLossError("torn"));
}

TEST(StatusMacrosTest, AssignOrReturnTwiceReturnsTheFirstError) {
  EXPECT_EQ(JoinTwo(std::string("a"), std::string("b")).value(), "ab");
  EXPECT_EQ(JoinTwo(absl::NotFoundError("left"), absl::NotFoundError("right")).status(),
            absl::NotFoundError("left"));
}

TEST(StatusMacrosTest, AssignOrReturnMovesWhatCannotBeCopied) {
  EXPECT_EQ(Unwrap(std::make_unique<int>(7)).value(), 7);
}

TEST(AnnotateTest, PutsTheOuterPlaceFirstAndKeepsTheCode) {
  const absl::Status inner = absl::OutOfRangeError("tokens: found -1");
  EXPECT_EQ(Annotate(Annotate(inner, "stages[2]"), "recipe.yaml"),
            absl::OutOfRangeError("recipe.yaml: stages[2]: tokens: found -1"));
}

TEST(AnnotateTest, LeavesOkAlone) {
  EXPECT_TRUE(Annotate(absl::OkStatus(), "recipe.yaml").ok());
}

}  // namespace
}  // namespace salamander
