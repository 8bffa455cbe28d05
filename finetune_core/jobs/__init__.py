"""A training on Hugging Face Jobs: rented by the minute, followed from here, kept in the person's private repository.

hardware.py what can be rented, and what this training would cost on it · hub_jobs.py the questions to the Hub ·
order.py the run that is to go there · sent.py what travels · follow.py diary and result back into the run folder ·
around.py, inside.py what runs there · standing.py how a run stands that nobody follows

Held to a double that really runs the job (tests/hub_jobs.py). Not seen on the live Hub: image, start-up of uv and CUDA,
the scheduler's pace, OAuth tokens that expire while a job goes on, and what it really costs.
"""
