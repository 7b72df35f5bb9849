// A server program over the fake service, for clients of other languages (openai_client_check.py,
// curl, a browser): http_probe_server [port] [token_delay_us]. Prints its URL; ends on SIGTERM/INT.
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "runtime/server/http_server.h"
#include "runtime/server/openai_api.h"
#include "tests/support/fake_generation_service.h"

int main(int argc, char** argv) {
  using namespace phalanx;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  testing::FakeScript script;
  script.answer =
      "Phalanx stands in one line: \"shield to shield\" — γεια σου, 世界 🛡.\n";
  script.token_delay = std::chrono::microseconds(argc > 2 ? std::atoi(argv[2]) : 2000);
  testing::FakeGenerationService service(script);
  const testing::ByteTextCodec codec;
  ServerOptions options;
  options.port = static_cast<uint16_t>(argc > 1 ? std::atoi(argv[1]) : 0);
  OpenAiApi api(service, codec, options);
  HttpServer server(options, api);
  if (const Status started = server.start(); !started.ok()) {
    std::cerr << started.error().message << "\n";
    return 1;
  }
  std::cout << server.url() << std::endl;
  int signal = 0;
  sigwait(&signals, &signal);
  server.stop(std::chrono::seconds(5));
  return 0;
}
