"""Theme and css: the few colours and shapes of the page, in light and dark, with nothing fetched from other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

CSS_DIR = Path(__file__).resolve().parent / "css"

# the page's ground colours, needed by gradio's own html before any css arrives (so that nothing flashes)
GROUND, GROUND_DARK = "#f7f7f4", "#14161a"
INK, INK_DARK = "#1b1f27", "#eceef2"

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

# The person's own choice of light or dark, kept in their browser. Gradio adds this once its page has begun, so the
# document is there already.
#
# Whoever left a run comes back to it, but the page is built for a new one: until the program has said where it opens,
# it shows neither, so that nobody takes a training for lost.
HEAD = """
<style>
  .arriving #main:not(:has([data-place])) > * { visibility: hidden; }
  .arriving #main:not(:has([data-place]))::before { content: ""; display: block; height: 96px; border-radius: 12px;
    background: var(--surface-2); }
</style>
<script>
  document.documentElement.lang = 'en';
  (() => {
    const keep = () => {
      let theme = null;
      try { theme = localStorage.getItem('fijn-theme'); } catch {}
      if (theme && document.body.classList.contains('dark') !== (theme === 'dark'))
        document.body.classList.toggle('dark', theme === 'dark');
    };
    keep();
    const asked = new URLSearchParams(location.search);
    let left = null;
    try { left = localStorage.getItem('fijn-run'); } catch {}
    if (asked.has('run') || (left && !asked.has('new'))) {
      document.documentElement.classList.add('arriving');
      setTimeout(() => document.documentElement.classList.remove('arriving'), 15000);
    }
    // whether a fold is open, for screen readers
    const fold = (event) => {
      const button = event.target.closest('button.label-wrap');
      if (button) requestAnimationFrame(() => button.setAttribute('aria-expanded', button.classList.contains('open')));
    };
    document.addEventListener('focusin', fold);
    document.addEventListener('click', fold);
    new MutationObserver(keep).observe(document.body, { attributes: true, attributeFilter: ['class'] });
  })();
</script>
"""


def css() -> str:
    """All style sheets of the page, frame.css first because it names the colours."""
    files = sorted(CSS_DIR.glob("*.css"), key=lambda file: (file.name != "frame.css", file.name))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def theme() -> gr.themes.Base:
    """Gradio's own parts in the colours of frame.css, named there once for light and dark."""
    base = gr.themes.Base(
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    )
    both = {
        "background_fill_primary": "var(--surface)",
        "background_fill_secondary": "var(--surface-2)",
        "block_background_fill": "transparent",
        "block_border_color": "transparent",
        "block_label_background_fill": "transparent",
        "block_label_text_color": "var(--ink-2)",
        "block_title_text_color": "var(--ink)",
        "block_info_text_color": "var(--ink-3)",
        "body_text_color_subdued": "var(--ink-3)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--accent)",
        "color_accent_soft": "var(--accent-soft)",
        "input_background_fill": "var(--surface)",
        "input_background_fill_focus": "var(--surface)",
        "input_border_color": "var(--line-2)",
        "input_border_color_focus": "var(--accent)",
        "input_placeholder_color": "var(--ink-3)",
        "input_shadow": "none",
        "input_shadow_focus": "0 0 0 3px var(--accent-ring)",
        "button_primary_background_fill": "var(--accent)",
        "button_primary_background_fill_hover": "var(--accent-2)",
        "button_primary_text_color": "var(--accent-ink)",
        "button_primary_text_color_hover": "var(--accent-ink)",
        "button_primary_border_color": "transparent",
        "button_secondary_background_fill": "var(--surface)",
        "button_secondary_background_fill_hover": "var(--surface-2)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_text_color_hover": "var(--ink)",
        "button_secondary_border_color": "var(--line-2)",
        "button_cancel_background_fill": "var(--surface)",
        "button_cancel_background_fill_hover": "var(--bad-soft)",
        "button_cancel_text_color": "var(--bad)",
        "button_cancel_text_color_hover": "var(--bad)",
        "button_cancel_border_color": "var(--line-2)",
        "checkbox_background_color": "var(--surface)",
        "checkbox_background_color_selected": "var(--accent)",
        "checkbox_border_color": "var(--line-2)",
        "checkbox_border_color_selected": "var(--accent)",
        "checkbox_label_background_fill": "transparent",
        "error_background_fill": "var(--bad-soft)",
        "error_border_color": "var(--bad)",
        "error_text_color": "var(--bad)",
        "link_text_color": "var(--accent)",
        "panel_background_fill": "transparent",
        "panel_border_color": "transparent",
        "shadow_drop": "none",
        "slider_color": "var(--accent)",
        "table_border_color": "var(--line)",
    }
    return base.set(
        body_background_fill=GROUND,
        body_background_fill_dark=GROUND_DARK,
        body_text_color=INK,
        body_text_color_dark=INK_DARK,
        block_border_width="0px",
        block_border_width_dark="0px",
        block_label_text_weight="500",
        block_title_text_weight="550",
        block_title_text_size="14px",
        block_padding="0px",
        block_shadow="none",
        block_shadow_dark="none",
        button_large_radius="10px",
        button_medium_radius="10px",
        button_small_radius="8px",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        button_transition="background-color .12s, border-color .12s, color .12s",
        color_accent="var(--accent)",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_radius="10px",
        input_text_size="15px",
        layout_gap="16px",
        form_gap_width="0px",
        **both,
        **{name + "_dark": value for name, value in both.items() if hasattr(base, name + "_dark")},
    )


def html(value: str = "", **kwargs: Any) -> gr.HTML:
    """Our own html, without gradio's prose styles and paddings; while it is empty it takes no place."""
    own = kwargs.pop("elem_classes", None) or []
    classes = ["piece", *([own] if isinstance(own, str) else own)]
    return gr.HTML(value, apply_default_css=False, padding=False, container=False, elem_classes=classes, **kwargs)
