# What the compiler left in the object files of one instruction set, by `nm`: cmake -DNM=nm -DOBJECTS="a.o;b.o" -P isa_objects.cmake
# Every program holds these files, on machines too that lack their instructions. So they may hold
#   no code that runs when a program starts: a table's operators are constant data, not set by a constructor;
#   no function that another file may share: of several copies of an inline function the linker keeps any one. What is
#   instantiated over the instruction set's own class is nobody else's.
set(class_avx512bf16 10Avx512Bf16)  # as names are mangled
set(class_avx512 6Avx512)
set(class_avx2 4Avx2)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "\\.(avx512bf16|avx512|avx2)\\.cpp\\.o(bj)?$")
    continue()
  endif()
  set(isa ${CMAKE_MATCH_1})
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    if(symbol MATCHES "_GLOBAL__sub_I|__static_initialization" OR symbol MATCHES " [bB] .*_operators")
      message(SEND_ERROR "${object} runs code when a program starts: ${symbol}")
    elseif(symbol MATCHES " [uvVwW] ([^ ]+)$" AND NOT symbol MATCHES "^ " AND NOT symbol MATCHES ${class_${isa}})
      message(SEND_ERROR "${object} holds what other files may share: ${symbol}")
    endif()
  endforeach()
  math(EXPR seen "${seen} + 1")
endforeach()
if(NOT seen)
  message(FATAL_ERROR "no object file of an instruction set in: ${OBJECTS}")
endif()
message("${seen} object files of instruction sets hold nothing but their own")
