# SALAMANDER_COMMIT: what `git describe` says of the sources; empty where there is no git or no repository.
set(SALAMANDER_COMMIT "")
find_package(Git QUIET)
if(Git_FOUND)
  # A repository that the sources merely lie in is another's.
  cmake_path(GET CMAKE_SOURCE_DIR PARENT_PATH above_sources)
  set(git ${CMAKE_COMMAND} -E env GIT_CEILING_DIRECTORIES=${above_sources} ${GIT_EXECUTABLE} -C ${CMAKE_SOURCE_DIR})
  execute_process(COMMAND ${git} describe --always --dirty
    OUTPUT_VARIABLE SALAMANDER_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(COMMAND ${git} rev-parse --path-format=absolute --git-path logs/HEAD
    OUTPUT_VARIABLE head_log OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(SALAMANDER_COMMIT AND EXISTS "${head_log}")
    # Grows with every commit and checkout.
    set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${head_log})
  endif()
endif()
