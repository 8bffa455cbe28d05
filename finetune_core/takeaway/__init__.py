"""Take it away: a run's result as files that other programs load, proven to answer the same, and on the Hub."""

TARGETS = ("adapter", "merged", "gguf")  # what was trained; whole weights; for llama.cpp and Ollama
TAKEN = (*TARGETS, "push", "push-data")
KINDS = ("f16", "q8_0", "q4_0")  # GGUF number formats
PERSONAL, PERSONAL_PUBLIC = "personal-data", "personal-data-public"  # why rows were not pushed, by who would see them
