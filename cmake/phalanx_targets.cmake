# Functions that make the project's targets, so that flags and the dependency rule live in one place.

# What every translation unit of ours is compiled with. Contraction is off because a fused
# multiply-add that the compiler chooses would make bits depend on the compiler's mood: where a
# kernel wants one, it says so.
add_library(phalanx_flags INTERFACE)
set(PHALANX_CXX_FLAGS
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-psabi -ffp-contract=off
  -Wno-restrict  # GCC 12 sees overlaps in std::string that are not there (its bug 105329)
  -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=)
if(PHALANX_SANITIZE)
  list(APPEND PHALANX_CXX_FLAGS
    -fsanitize=${PHALANX_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
endif()
# nvcc knows few of them: phalanx_cuda_flags has its own.
target_compile_options(phalanx_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${PHALANX_CXX_FLAGS}>")
target_include_directories(phalanx_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
if(PHALANX_SANITIZE)
  target_link_options(phalanx_flags INTERFACE -fsanitize=${PHALANX_SANITIZE})
endif()

find_program(PHALANX_CCACHE ccache)
if(PHALANX_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${PHALANX_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PHALANX_CCACHE})
endif()

# phalanx_library(name SOURCES a.cpp ... [DEPS base ...] [LIBRARIES Boost::headers ...] [PROTOS a.proto ...])
# Makes the static library phalanx_<name> of the current folder. DEPS are our own libraries (without
# the prefix) and are all that the folder may include; LIBRARIES come from outside.
function(phalanx_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBRARIES;PROTOS" ${ARGN})
  set(generated "")
  foreach(proto IN LISTS ARG_PROTOS)
    get_filename_component(stem ${proto} NAME_WE)
    file(RELATIVE_PATH folder ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
    set(base ${CMAKE_BINARY_DIR}/generated/${folder}/${stem}.pb)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
    add_custom_command(
      OUTPUT ${base}.cc ${base}.h
      COMMAND protobuf::protoc --proto_path=${CMAKE_SOURCE_DIR}
              --cpp_out=${CMAKE_BINARY_DIR}/generated ${folder}/${proto}
      WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto} protobuf::protoc
      VERBATIM)
    list(APPEND generated ${base}.cc)
    set_source_files_properties(${base}.cc PROPERTIES COMPILE_OPTIONS "-w")
  endforeach()
  add_library(phalanx_${name} STATIC ${ARG_SOURCES} ${generated})
  list(TRANSFORM ARG_DEPS PREPEND phalanx_)
  target_link_libraries(phalanx_${name} PUBLIC phalanx_flags ${ARG_DEPS} ${ARG_LIBRARIES})
  if(ARG_PROTOS)
    target_link_libraries(phalanx_${name} PUBLIC protobuf::libprotobuf)
  endif()
endfunction()

# phalanx_program(llm-worker SOURCES ... DEPS ... LIBRARIES ...): an executable in build/<preset>/bin.
function(phalanx_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND phalanx_)
  target_link_libraries(${name} PRIVATE phalanx_flags ${ARG_DEPS} ${ARG_LIBRARIES})
endfunction()

# phalanx_test(name LABEL unit|mpi|golden|fuzz|gpu SOURCES ... DEPS ... [RANKS n ...] [TIMEOUT s])
# With RANKS the test runs once per n under mpirun; such a test has its own main that calls MPI_Init.
function(phalanx_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;DEPS;LIBRARIES;RANKS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(PHALANX_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 10")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND phalanx_)
  set(main GTest::gmock GTest::gtest_main)
  if(ARG_RANKS)
    set(main GTest::gmock GTest::gtest)
  endif()
  target_link_libraries(${name} PRIVATE phalanx_flags ${ARG_DEPS} ${ARG_LIBRARIES} ${main})
  target_compile_definitions(${name} PRIVATE PHALANX_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             PHALANX_BINARY_DIR="${CMAKE_BINARY_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(ARG_RANKS)
    foreach(ranks IN LISTS ARG_RANKS)
      add_test(NAME ${name}_np${ranks}
               COMMAND ${CMAKE_SOURCE_DIR}/scripts/mpirun -np ${ranks} $<TARGET_FILE:${name}>)
      set_tests_properties(${name}_np${ranks} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
    endforeach()
  else()
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()
