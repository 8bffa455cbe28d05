"""The parts of the proof: who competes, how answers are scored, and what the scores can show."""
