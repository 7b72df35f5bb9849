// The group of one rank. Used for tp_size 1 and in tests.
#include <cstring>

#include "parallel/communicator.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

class SingleCommunicator : public Communicator {
 public:
  void all_reduce_sum(std::span<float>) override {}
  std::vector<std::byte*> share_memory(size_t) override { return {}; }
  void meet() override {}
  size_t bytes_worth_a_meeting() const override { return 0; }
  void gather(std::span<const std::byte> part, std::span<const size_t> part_bytes,
              std::span<std::byte> out, int root) override {
    check_root(root);
    PHALANX_CHECK_EQ(part_bytes.size(), 1U, "gather: a size for each rank");
    PHALANX_CHECK_EQ(part.size(), part_bytes[0], "gather: this rank's part");
    PHALANX_CHECK_EQ(part.size(), out.size(), "gather: the output of one rank is its part");
    if (!part.empty() && part.data() != out.data())
      std::memmove(out.data(), part.data(), part.size());
  }
  void broadcast(std::span<std::byte>, int root) override { check_root(root); }
  void send(std::span<const std::byte>, int) override { refuse(); }
  void recv(std::span<std::byte>, int) override { refuse(); }
  void post(std::span<const std::byte>, int) override { refuse(); }
  bool push_posted() override { return true; }
  void finish_posted() override {}
  bool can_recv(int) override { refuse(); }
  std::string transport() const override { return "none"; }

 private:
  static void check_root(int root) { PHALANX_CHECK_EQ(root, 0, "the root of a group of one"); }
  [[noreturn]] static void refuse() { throw InternalError("a group of one has no peers"); }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace phalanx::parallel
