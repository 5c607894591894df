"""How a CPU kernel is written and compiled with LLVM; no operator."""
