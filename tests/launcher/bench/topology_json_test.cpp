// What reports of all versions look like.
#include "launcher/bench/topology_json.h"

#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

TEST(TopologyJson, NamesAndOrderAreThoseOfEarlierReports) {
  const auto topology = launcher::topology_of_synthetic(
      "package:2 [numa(memory=1048576)] l3:1(size=33554432) core:2 l2:1(size=2097152) "
      "l1d:1(size=49152) pu:2(indexes=0,4,1,5,2,6,3,7)");
  ASSERT_TRUE(topology.ok()) << topology.error().message;
  const auto json = topology_json(*topology);
  std::string keys;
  for (const auto& item : json.items()) keys += item.key() + " ";
  EXPECT_EQ(keys, "packages cores threads_per_core cpus caches nodes ");
  EXPECT_EQ(json["packages"], 2);
  EXPECT_EQ(json["cores"], 4);
  EXPECT_EQ(json["threads_per_core"], 2);
  EXPECT_EQ(json["cpus"].size(), 8U);
  EXPECT_EQ(json["cpus"][6].dump(), R"({"cpu":6,"core":2,"package":1,"node":1})");
  EXPECT_EQ(json["caches"].size(), 10U);
  EXPECT_EQ(json["caches"][0].dump(), R"({"level":1,"bytes":49152,"cpus":"0,4"})");
  EXPECT_EQ(json["caches"].back().dump(), R"({"level":3,"bytes":33554432,"cpus":"2-3,6-7"})");
  EXPECT_EQ(json["nodes"][1].dump(), R"({"node":1,"cpus":"2-3,6-7","memory_bytes":1048576})");
}

}  // namespace
}  // namespace phalanx::bench
