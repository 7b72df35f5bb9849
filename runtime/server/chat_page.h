// The page at "/": chat with the model from a browser. Its text is chat_page.html, compiled in.
#pragma once

#include <string>

namespace phalanx {

const std::string& chat_page_html();

}  // namespace phalanx
