// Tests parallel/add_tree: the bits of the tree, whatever the count and wherever the output lies.
#include "parallel/add_tree.h"

#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/parallel/tree_model.h"

namespace phalanx::parallel {
namespace {

TEST(AddTree, HasTheBitsOfTheTree) {
  for (int num_sources : {2, 4, 8, 16, 32, 64})
    for (size_t count : {0, 1, 3, 15, 16, 17, 63, 511, 512, 513, 2000})
      for (int place : {-1, 0, num_sources - 1}) {  // out of place, or over a source
        std::vector<std::vector<float>> values;
        std::vector<const float*> sources;
        for (int s = 0; s < num_sources; ++s) values.push_back(scattered_values(7, s, count));
        for (const auto& source : values) sources.push_back(source.data());
        std::vector<float> separate(count);
        float* out = place < 0 ? separate.data() : values[static_cast<size_t>(place)].data();
        add_tree(sources, out, count);
        EXPECT_EQ(std::vector<float>(out, out + count), tree_values(7, num_sources, count))
            << num_sources << " sources of " << count << ", place " << place;
      }
}

TEST(AddTree, TheOrderMattersForTheseNumbers) {
  // Without this the test above could not fail for a wrong order.
  int num_different = 0;
  for (size_t i = 0; i < 1000; ++i) {
    float in_sequence = 0;
    for (int s = 0; s < 8; ++s) in_sequence += scattered_value(7, s, i);
    num_different += in_sequence != tree_value(7, 0, 8, i) ? 1 : 0;
  }
  EXPECT_GT(num_different, 200);
}

TEST(AddTree, RefusesOtherThanPowersOfTwo) {
  const float value = 1;
  float out = 0;
  const float* three[] = {&value, &value, &value};
  EXPECT_THROW(add_tree(three, &out, 1), InternalError);
  EXPECT_THROW(add_tree(std::span(three, 1), &out, 1), InternalError);
}

}  // namespace
}  // namespace phalanx::parallel
