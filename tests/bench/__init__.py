"""The comparisons of ``make bench``: Callgate against Envoy, HAProxy, mitmproxy and no proxy at
all, on this machine.

How it measures:

- CPU per call is user + system time of the proxy's whole process tree (``/proc/<pid>/stat``, all
threads, all children)
  over the calls that the client counted as answered in that interval. It is the figure that
  survives a busy machine.
- Everything runs in turns (A B C A B C …), so that a slow minute of the machine falls on all alike;
what is printed is the
  median over the rounds.
- One client (wrk, one thread, kept-alive connections), one token, one certificate, one upstream for
all. Client and
  upstream are pinned to the first core and the proxy to the last, where there is more than one.
- Before anything is timed, every peer has to prove on every row that it does the work: the right
token gets the right
  answer, a forged one is refused, and so is a forbidden method where the row's method stands in the
  body.
- Callgate's journal is on the real disk and every call is durable before it is forwarded; the
others write an access log.
  The peers do less: they look for the method with a regular expression and write a line afterwards.
"""
