#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "trainer/report/metrics_log.h"
#include "trainer/report/progress_display.h"
#include "trainer/report/table.h"

namespace salamander {
namespace {

using testing::HasSubstr;

// A path in a folder of its own that goes with the test.
class MetricsLogTest : public testing::Test {
 protected:
  MetricsLogTest() {
    std::string name = (std::filesystem::temp_directory_path() / "salamander-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~MetricsLogTest() override { std::filesystem::remove_all(folder_); }

  std::string Path() const { return folder_ + "/metrics.jsonl"; }

  std::string Contents() const {
    std::ifstream file(Path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  void Put(const std::string& text) const { std::ofstream(Path(), std::ios::binary) << text; }

  // Opens as a run does that goes on after `last_step`, and closes again.
  std::string ContentsAfterOpening(int64_t last_step) const {
    const auto log = MetricsLog::Open(Path(), last_step);
    EXPECT_TRUE(log.ok()) << log.status();
    return Contents();
  }

  std::string folder_;
};

TEST(TableTest, PutsWordsLeftAndNumbersRight) {
  Table table({"layer", "score", "fate"});
  table.AddRow({"0", "1.5", "kept"});
  table.AddRow({"10", "-0.25", "dropped"});
  EXPECT_EQ(table.Text(),
            "layer  score  fate\n"
            "    0    1.5  kept\n"
            "   10  -0.25  dropped\n");
}

TEST(TableTest, LeavesNoSpaceAtALinesEnd) {
  Table table({"name", "a longer title"});
  table.AddRow({"alone", ""});
  EXPECT_EQ(table.Text(), "name   a longer title\nalone\n");
}

TEST(TableTest, AHeaderAloneIsATable) {
  EXPECT_EQ(Table({"a", "b"}).Text(), "a  b\n");
}

TEST(TableTest, ShortGivesFourDigits) {
  EXPECT_EQ(Short(1.23456), "1.235");
  EXPECT_EQ(Short(12345678), "1.235e+07");
  EXPECT_EQ(Short(0), "0");
}

TEST_F(MetricsLogTest, WritesOneObjectALineInOrder) {
  auto log = MetricsLog::Open(Path(), 0);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE(log->Write("step", 1, {{"loss", 2.5}, {"tokens", int64_t{512}}}).ok());
  ASSERT_TRUE(log->Write("evaluation", 1, {{"stage", std::string("align")}}).ok());
  EXPECT_EQ(Contents(),
            "{\"kind\":\"step\",\"step\":1,\"loss\":2.5,\"tokens\":512}\n"
            "{\"kind\":\"evaluation\",\"step\":1,\"stage\":\"align\"}\n");
}

TEST_F(MetricsLogTest, WritesNumbersThatAreNotFiniteAsText) {
  auto log = MetricsLog::Open(Path(), 0);
  ASSERT_TRUE(log.ok()) << log.status();
  const double infinity = std::numeric_limits<double>::infinity();
  ASSERT_TRUE(log->Write("step", 1, {{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}}).ok());
  const auto json = nlohmann::json::parse(Contents(), nullptr, false);
  ASSERT_TRUE(json.is_object()) << Contents();
  EXPECT_EQ(json["a"], "nan");
  EXPECT_EQ(json["b"], "inf");
  EXPECT_EQ(json["c"], "-inf");
}

TEST_F(MetricsLogTest, WritesEveryDoubleSoThatItReadsBack) {
  auto log = MetricsLog::Open(Path(), 0);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE(log->Write("step", 1, {{"loss", 0.1 + 0.2}}).ok());
  EXPECT_EQ(nlohmann::json::parse(Contents())["loss"].get<double>(), 0.1 + 0.2);
}

TEST_F(MetricsLogTest, StaysJsonWhateverTheTextIs) {
  auto log = MetricsLog::Open(Path(), 0);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE(log->Write("step", 1, {{"stage", std::string("a\"b\n\xff")}}).ok());
  const std::string text = Contents();
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_TRUE(nlohmann::json::parse(text, nullptr, false).is_object()) << text;
}

constexpr char kThreeSteps[] =
    "{\"kind\":\"step\",\"step\":1,\"loss\":3.0}\n"
    "{\"kind\":\"step\",\"step\":2,\"loss\":2.0}\n"
    "{\"kind\":\"evaluation\",\"step\":2}\n"
    "{\"kind\":\"step\",\"step\":3,\"loss\":1.0}\n";

TEST_F(MetricsLogTest, CutsLinesAfterTheStepTheRunGoesOnFrom) {
  Put(kThreeSteps);
  EXPECT_EQ(ContentsAfterOpening(2),
            "{\"kind\":\"step\",\"step\":1,\"loss\":3.0}\n"
            "{\"kind\":\"step\",\"step\":2,\"loss\":2.0}\n"
            "{\"kind\":\"evaluation\",\"step\":2}\n");
  EXPECT_EQ(ContentsAfterOpening(0), "");
}

TEST_F(MetricsLogTest, LeavesAWholeLogAsItIs) {
  Put(kThreeSteps);
  EXPECT_EQ(ContentsAfterOpening(3), kThreeSteps);
  EXPECT_EQ(ContentsAfterOpening(100), kThreeSteps);
}

TEST_F(MetricsLogTest, CutsATornLastLineWhereverItIsTorn) {
  const std::string whole = kThreeSteps;
  const size_t last_line = whole.rfind('{');
  for (size_t size = last_line + 1; size + 2 <= whole.size(); ++size) {
    Put(whole.substr(0, size));
    EXPECT_EQ(ContentsAfterOpening(3), whole.substr(0, last_line)) << "torn after " << size;
  }
  // Only the line's end is missing: the line is whole, and the next one does not run into it.
  Put(whole.substr(0, whole.size() - 1));
  EXPECT_EQ(ContentsAfterOpening(3), whole);
}

TEST_F(MetricsLogTest, GoesOnAfterTheCut) {
  Put(kThreeSteps);
  auto log = MetricsLog::Open(Path(), 1);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_TRUE(log->Write("step", 2, {{"loss", 2.5}}).ok());
  EXPECT_EQ(Contents(),
            "{\"kind\":\"step\",\"step\":1,\"loss\":3.0}\n"
            "{\"kind\":\"step\",\"step\":2,\"loss\":2.5}\n");
}

TEST_F(MetricsLogTest, NamesAFileItCannotOpen) {
  const auto log = MetricsLog::Open(folder_ + "/none/metrics.jsonl", 0);
  EXPECT_THAT(std::string(log.status().message()), HasSubstr("none/metrics.jsonl"));
}

TEST(ProgressLineTest, ShowsBarStepLossSpeedAndTimeLeft) {
  const StepReport report{
      .step = 3, .steps = 12, .loss = 2.34567, .learning_rate = 1e-3, .tokens_per_second = 1234.4};
  EXPECT_EQ(ProgressLine(report, 65, 8),
            "[==      ] 3/12  loss 2.3457  lr 1.00e-03  1234 tokens/s  1m05s left");
}

TEST(ProgressLineTest, LeavesOutWhatIsNotKnown) {
  const StepReport report{.step = 3, .steps = 12, .loss = 2};
  EXPECT_EQ(ProgressLine(report, -1, 0), "3/12  loss 2.0000  lr 0.00e+00  0 tokens/s");
}

TEST(ProgressLineTest, FillsTheBarAtTheLastStep) {
  EXPECT_THAT(ProgressLine({.step = 5, .steps = 5}, 0, 4), HasSubstr("[====] 5/5"));
  EXPECT_THAT(ProgressLine({.step = 0, .steps = 0}, 0, 4), HasSubstr("[    ] 0/0"));
}

TEST(ProgressLineTest, GivesDurationsInTheirOwnUnits) {
  EXPECT_EQ(DurationText(0.2), "0s");
  EXPECT_EQ(DurationText(59.4), "59s");
  EXPECT_EQ(DurationText(59.6), "1m00s");
  EXPECT_EQ(DurationText(245), "4m05s");
  EXPECT_EQ(DurationText(3599.6), "1h00m");
  EXPECT_EQ(DurationText(11520), "3h12m");
}

}  // namespace
}  // namespace salamander
