"""Harness of the tests on real servers: throw-away PostgreSQL clusters, the real programs, and proxies between them.

Rules kept here, so that tests need not think of them:
  * everything lives in one folder made by mkdtemp, removed at the end, also after a failure or Ctrl-C;
  * only processes started here are ended, by pid;
  * no fixed TCP port: the programs are given port 0 and write the real one to a file;
  * waiting is always for a condition, with a deadline and a sentence that says what did not happen.
"""
