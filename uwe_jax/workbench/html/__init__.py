"""Results as one page of HTML: no network, no scripts, plots as inline SVG."""

from uwe_jax.workbench.html.page import render

__all__ = ['render']
