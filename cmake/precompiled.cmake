# Headers that most files of a room include are read once for all of them: those of the standard library and of other
# libraries, and our own that carry the graph and the schema. They are half of the time that a file takes to compile
# without optimisation. A file still includes what it uses.
#
# CMake's own target_precompile_headers() writes the folder's name into its result, and ccache then finds nothing that
# another checkout compiled. This one comes out the same everywhere: it has no date, and its source and our
# own headers have names that begin at the folder where the compiler runs. (Names with ".." would not do: ninja shortens
# them without looking. Nor would /dev/null as its source: ccache then looks for no more than preprocessed files.)
file(CREATE_LINK ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/source SYMBOLIC)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.h CONTENT "")
set(precompiled_includes -I/proc/self/cwd/source -I/proc/self/cwd/generated)

# blockbed_precompiled(NAME FLAGS FLAG... HEADERS HEADER...) makes NAME.pch; blockbed_use_precompiled(TARGET NAME) compiles
# with it. FLAGS are those that CMake gives such a target beyond what the folder has.
function(blockbed_precompiled name)
  cmake_parse_arguments(PCH "" "" "FLAGS;HEADERS" ${ARGN})
  set(command ${CMAKE_CXX_COMPILER})
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS}")
  get_directory_property(options COMPILE_OPTIONS)
  list(APPEND command ${flags} ${options} ${PCH_FLAGS} ${precompiled_includes} -std=c++2b -DFMT_SHARED
       -Xclang -fno-pch-timestamp -fpch-instantiate-templates)
  foreach(header ${PCH_HEADERS})
    list(APPEND command -include ${header})
  endforeach()
  set(result ${CMAKE_BINARY_DIR}/${name}.pch)
  add_custom_command(
    OUTPUT ${result}
    COMMAND ${command} -MD -MT ${result} -MF ${result}.d -x c++-header /proc/self/cwd/precompiled.h -o ${result}
    DEPENDS ${schema_stamp}
    DEPFILE ${result}.d
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
    COMMENT "Precompiling ${name}"
    VERBATIM)
  add_custom_target(${name} DEPENDS ${result})
endfunction()

function(blockbed_use_precompiled target name)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    return()
  endif()
  set(file ${CMAKE_BINARY_DIR}/${name}.pch)
  target_compile_options(${target} PRIVATE "SHELL:-include-pch ${name}.pch")
  get_target_property(sources ${target} SOURCES)
  set_property(SOURCE ${sources} APPEND PROPERTY OBJECT_DEPENDS ${file})
  add_dependencies(${target} ${name})
endfunction()
