// main() of the tests with label gpu: without a device ctest is told that they were skipped.
#include <iostream>
#include <string>

#include <gtest/gtest.h>

#include "kernels/cuda_backend.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  testing::InitGoogleTest(&argc, argv);
  std::string why;
  const auto devices = phalanx::kernels::find_cuda_devices(&why);
  if (devices.empty()) {
    std::cout << "skipped: " << why << "\n";
    return kSkipped;
  }
  std::cout << "on " << devices.front().name << "\n";
  return RUN_ALL_TESTS();
}
