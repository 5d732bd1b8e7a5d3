#include "trainer/run/progress.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::HasSubstr;

RunProgress SomeProgress() {
  return {.stage = 2,
          .stage_step = 17,
          .global_step = 1234567890123,
          .tokens = 9876543210987,
          .optimizer_step = 40,
          .skipped_steps = 3,
          .stage_start = {
              {"text", {.pending = {{.number = 7, .begin = 5, .count = 11}}, .next_document = 99}},
              {"recall \"quoted\" \xc3\xa9", {.pending = {}, .next_document = 4}}}};
}

TEST(ProgressTest, ReadsBackWhatItWrote) {
  for (const RunProgress& progress : {RunProgress{}, SomeProgress()}) {
    const auto read = ParseProgress(ProgressText(progress));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, progress);
  }
}

TEST(ProgressTest, RefusesEveryTruncation) {
  const std::string text = ProgressText(SomeProgress());
  for (size_t size = 0; size < text.size(); ++size)
    EXPECT_FALSE(ParseProgress(text.substr(0, size)).ok()) << size;
}

TEST(ProgressTest, NamesWhatIsWrong) {
  const std::string text = ProgressText(SomeProgress());
  struct Damage {
    std::string found, put, said;
  };
  for (const Damage& damage : {
           Damage{"\"version\": 1", "\"version\": 2", "version 2"},
           Damage{"\"stage_step\"", "\"stage_stop\"", "stage_step"},
           Damage{"\"stage_step\": 17", "\"stage_step\": \"17\"", "damaged"},
           Damage{"\"stage_step\": 17", "\"stage_step\": -1", "stage_step"},
           Damage{"\"stage\": 2", "\"stage\": -2", "stage"},
           Damage{"\"tokens\": 9876543210987", "\"tokens\": null", "damaged"},
           Damage{"99,", "", "position"},
       }) {
    const std::string damaged = absl::StrReplaceAll(text, {{damage.found, damage.put}});
    ASSERT_NE(damaged, text) << damage.found;
    const auto read = ParseProgress(damaged);
    ASSERT_FALSE(read.ok()) << damaged;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(damage.said));
  }
}

}  // namespace
}  // namespace salamander
