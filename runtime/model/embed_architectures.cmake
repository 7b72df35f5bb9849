# cmake -DOUTPUT=x.cpp -DINPUTS=a.textproto;b.textproto -P embed_architectures.cmake
# Writes the texts as raw string literals, for builtin_architectures.h.
set(table "")
foreach(input IN LISTS INPUTS)
  file(READ ${input} text)
  get_filename_component(file ${input} NAME)
  string(APPEND table "    {\"${file}\", R\"textproto(${text})textproto\"},\n")
endforeach()
file(WRITE ${OUTPUT} "// Generated from runtime/model/architectures by embed_architectures.cmake.
#include \"runtime/model/builtin_architectures.h\"

namespace phalanx::model {

namespace {

constexpr BuiltinArchitecture kTable[] = {
${table}};

}  // namespace

const std::span<const BuiltinArchitecture> kBuiltinArchitectures(kTable);

}  // namespace phalanx::model
")
