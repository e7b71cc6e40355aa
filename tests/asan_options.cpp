// What AddressSanitizer does in test programs unless ASAN_OPTIONS says otherwise.
//
// Freed memory waits before it is used again, 256 MiB of it by default: simulations that visit
// thousands of states then touch fresh pages all the time, which costs more than their work. What
// is used after it was freed is used soon.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "quarantine_size_mb=16"; }
