# Headers of the standard library and of other libraries are read once for all files: half of the time that a small file
# takes to compile, a quarter of a large one's. A file still includes what it uses.
#
# CMake's own target_precompile_headers() writes the folder's name into its result, and ccache then finds nothing that
# another checkout compiled. This one comes out the same everywhere: its source is no file of ours, and it has no date.

# blockbed_precompiled(NAME FLAGS FLAG... HEADERS HEADER...) makes NAME.pch; blockbed_use_precompiled(TARGET NAME) compiles
# with it. FLAGS are those that CMake gives such a target beyond what the folder has.
function(blockbed_precompiled name)
  cmake_parse_arguments(PCH "" "" "FLAGS;HEADERS" ${ARGN})
  set(command ${CMAKE_CXX_COMPILER})
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS}")
  get_directory_property(options COMPILE_OPTIONS)
  list(APPEND command ${flags} ${options} ${PCH_FLAGS} -std=c++2b -DFMT_SHARED -Xclang -fno-pch-timestamp
       -fpch-instantiate-templates)
  foreach(header ${PCH_HEADERS})
    list(APPEND command -include ${header})
  endforeach()
  set(result ${CMAKE_BINARY_DIR}/${name}.pch)
  add_custom_command(
    OUTPUT ${result}
    COMMAND ${command} -MD -MT ${name}.pch -MF ${result}.d -x c++-header /dev/null -o ${result}
    DEPFILE ${result}.d
    COMMENT "Precompiling ${name}"
    VERBATIM)
  add_custom_target(${name}_pch DEPENDS ${result})
endfunction()

function(blockbed_use_precompiled target name)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    return()
  endif()
  set(file ${CMAKE_BINARY_DIR}/${name}.pch)
  target_compile_options(${target} PRIVATE "SHELL:-include-pch ${name}.pch")
  get_target_property(sources ${target} SOURCES)
  set_property(SOURCE ${sources} APPEND PROPERTY OBJECT_DEPENDS ${file})
  add_dependencies(${target} ${name}_pch)
endfunction()
