"""rq-dashboard, set up for our JSON jobs: queues, jobs and workers in a browser.

Knows rq-dashboard 0.9 and what has to be mended in it. rq-dashboard reads jobs with pickle, RQ's default, wherever
it builds one of RQ's classes itself. With JSON jobs that is a 500 on the Workers page as soon as a worker is busy,
on every job that depends on another and on every unknown id; with a hostile job it is code run in the dashboard.
`mending` replaces names of its module, so that it reads JSON and nothing else.

It shows one of several deployments on a server, the queues, workers and jobs of one prefix, unless asked for all.
The page of a job is ours: the answer as text, and the prompt where that is asked for.

It is meant for looking. Deleting is switched off, because it would take a job away from its subscribers without a
terminal event (`genqueue cancel JOB` ends it properly); a requeue is accepted from the dashboard's own pages only.
"""

from .errors import DashboardError, DashboardNotInstalled

try:
    import flask  # noqa: F401
    import rq_dashboard  # noqa: F401
except ImportError as missing:
    raise DashboardNotInstalled from missing

from .app import make_app
from .serving import serve

__all__ = ["DashboardError", "DashboardNotInstalled", "make_app", "serve"]
