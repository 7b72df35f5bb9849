// Each rank gets a device of its own whenever that is possible.
#include "launcher/device_placement.h"

#include <gtest/gtest.h>

namespace phalanx::launcher {
namespace {

std::vector<int> placed(const SeenDevices& seen, bool share = false) {
  const auto result = place_on_devices(seen, share);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return result.ok() ? *result : std::vector<int>();
}

TEST(DevicePlacement, RanksThatSeeTheSameTakeThemInOrder) {
  const std::vector<std::string> all{"a", "b", "c", "d"};
  EXPECT_EQ(placed({all, all, all, all}), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(placed({all, all}), (std::vector<int>{0, 1}));
}

TEST(DevicePlacement, ARankTakesTheOneDeviceItIsShown) {
  EXPECT_EQ(placed({{"c"}, {"a"}, {"b"}}), (std::vector<int>{0, 0, 0}));
}

TEST(DevicePlacement, AnEarlierRankMakesRoom) {
  EXPECT_EQ(placed({{"a", "b"}, {"a"}}), (std::vector<int>{1, 0}));
  EXPECT_EQ(placed({{"a", "b"}, {"b", "c"}, {"a"}}), (std::vector<int>{1, 1, 0}));
}

TEST(DevicePlacement, TooFewDevicesNameTheRank) {
  const auto result = place_on_devices({{"a"}, {"a"}, {"a"}}, false);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("rank 1 of the host's 3"), std::string::npos)
      << result.error().message;
  EXPECT_NE(result.error().message.find("cuda.share_devices"), std::string::npos);
  EXPECT_FALSE(place_on_devices({{"a"}, {}}, false).ok());
}

TEST(DevicePlacement, SharingSpreadsEvenly) {
  const std::vector<std::string> two{"a", "b"};
  EXPECT_EQ(placed({two, two, two, two}, true), (std::vector<int>{0, 1, 0, 1}));
  EXPECT_EQ(placed({{"a"}, two, two}, true), (std::vector<int>{0, 1, 0}));
  EXPECT_FALSE(place_on_devices({{"a"}, {}}, true).ok());
}

TEST(DevicePlacement, AnUnknownBusIsNearNothing) {
  EXPECT_TRUE(cpus_near_device("").empty());
  EXPECT_TRUE(cpus_near_device("ffff:ff:1f.7").empty());
}

}  // namespace
}  // namespace phalanx::launcher
