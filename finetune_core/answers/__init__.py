"""The parts of answering: who answers, how, and in which protocol."""
