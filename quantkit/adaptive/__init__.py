"""Several precisions of one model behind one session, which decides for each request how much precision it needs."""
