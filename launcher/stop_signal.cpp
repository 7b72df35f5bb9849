// One flag, set by signals.
#include "launcher/stop_signal.h"

#include <csignal>
#include <initializer_list>

namespace phalanx {
namespace {

volatile std::sig_atomic_t received = 0;

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { received = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

int stop_signal() { return received; }

void check_stop() {
  if (received != 0) throw Stopped();
}

}  // namespace phalanx
