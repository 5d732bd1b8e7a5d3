// A tiny world for the program: text of this repository as tokens, a four-layer dense model, the
// same as a hybrid, and recipes. Everything is made by the program itself.
#ifndef TESTS_SYSTEM_TINY_ROAD_H_
#define TESTS_SYSTEM_TINY_ROAD_H_

#include <string>
#include <vector>

#include "tests/system/program.h"

namespace salamander {

class TinyRoad {
 public:
  // Writes the YAML files below and tokens.h5.
  TinyRoad();

  std::string Path(const std::string& name) const { return directory_ / name; }
  const std::string& directory() const { return directory_.path(); }

  // Runs the program inside the directory.
  Outcome Run(const std::vector<std::string>& arguments, int ranks = 1) const;
  // The same; fails the test where the exit code is not 0.
  Outcome Succeed(const std::vector<std::string>& arguments, int ranks = 1) const;
  Launch MakeLaunch(const std::vector<std::string>& arguments, int ranks = 1) const;

  // A folder of this repository with a few short texts, and the pattern of their names.
  static std::string TextFolder();
  static const char* TextPattern() { return "*.h"; }

  // base (a trained run), candidates.ckpt and hybrid.ckpt.
  void MakeHybrid() const;

 private:
  TestDirectory directory_;
};

// In the directory: model.yaml, sparse.yaml and
extern const char kBaseRecipe[];  // base.yaml: the dense model from scratch

}  // namespace salamander

#endif  // TESTS_SYSTEM_TINY_ROAD_H_
