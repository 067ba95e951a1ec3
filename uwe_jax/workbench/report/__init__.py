"""Results as one HTML page: no network, no scripts, plots as inline SVG."""

from uwe_jax.workbench.report.render import render

__all__ = ['render']
