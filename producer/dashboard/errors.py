"""Why a dashboard cannot start."""

from ..contract import GenqueueError


class DashboardError(GenqueueError):
    """The dashboard cannot start."""


class DashboardNotInstalled(DashboardError, ImportError):
    """rq-dashboard is not installed: pip install 'genqueue[dashboard]'"""
