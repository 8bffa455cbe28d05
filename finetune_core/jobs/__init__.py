"""A training on Hugging Face Jobs: rented by the minute, followed from here, kept in the person's private repository.

hardware.py what can be rented, and what this training would cost on it · hub_jobs.py the questions to the Hub ·
sent.py what travels · follow.py diary and result back into the run folder · inside.py what runs there
"""
