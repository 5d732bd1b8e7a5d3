#include "data/storage/checksum.h"

#include <string>

#include <gtest/gtest.h>

namespace salamander {
namespace {

TEST(ChecksumTest, MatchesThePublishedValueOfNothing) {
  EXPECT_EQ(ChecksumText(ChecksumOf("", 0)), "2d06800538d394c2");  // XXH3-64 with seed 0
}

TEST(ChecksumTest, DoesNotDependOnHowTheBytesAreCut) {
  std::string bytes(5000, '\0');
  for (size_t index = 0; index < bytes.size(); ++index) bytes[index] = static_cast<char>(index * 7);
  Checksum pieces;
  for (size_t begin = 0, length = 1; begin < bytes.size(); begin += length, length = length * 2) {
    pieces.Update(bytes.data() + begin, std::min(length, bytes.size() - begin));
  }
  EXPECT_EQ(pieces.digest(), ChecksumOf(bytes.data(), bytes.size()));
}

TEST(ChecksumTest, SeesEveryFlippedByte) {
  std::string bytes(300, 'x');
  const uint64_t before = ChecksumOf(bytes.data(), bytes.size());
  for (char& byte : bytes) {
    byte ^= 1;
    EXPECT_NE(ChecksumOf(bytes.data(), bytes.size()), before);
    byte ^= 1;
  }
}

TEST(ChecksumTest, TextKeepsLeadingZeros) {
  EXPECT_EQ(ChecksumText(0xAB), "00000000000000ab");
}

}  // namespace
}  // namespace salamander
