"""One door to all figures: a record in, a figure out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


def plot(record: object, **options: Any) -> go.Figure:
    """Draw a record as a Plotly figure, which a notebook shows.

    Args:
        record: what to draw, and by what options:

            - a `Profile`, `PathStudy` or `PairStudy`, or several of a kind: loss and error along the paths
              (`of`, `along`, `splits`, `level`, `within`; `names` for profiles);
            - a `Barrier` or several: heights with intervals (`names`, `of`, `above`, `within`);
            - a `Comparison` of methods of matching: the barrier of every line (`of`, `above`, `within`);
            - a `Surface`: the plane through three models (`of`, also "objective"; `view`, "map" or "relief";
              `log`);
            - a `Matching`: the share of units moved;
            - a `Connection`: how the fit went;
            - a `MinimaTree`: its disconnectivity graph;
            - any other study: the first figure of its page, which takes no options (`save_figures` writes
              them all).
        options: of the figure; every figure takes `height` (pixels) and `controls` (buttons or none).

    Raises:
        SettingError: the record is none that can be drawn, or an option is not one of the figure's.

    Example:
        >>> from isthmus.barriers import Barrier
        >>> wall = Barrier(0.4, 0.35, 0.45, 0.5, "error", "mean", "test", 1000, 25, 0.95, "segment")
        >>> [float(value) for value in plot(wall).data[0].customdata[0]]
        [40.0, 35.0, 45.0]
    """
    from isthmus.report.drawing import draw, drawn_by_itself  # the plotting library takes a while to import
    from isthmus.report.studies import is_study, page_of

    if is_study(record) and not drawn_by_itself(record) and not options:
        return page_of(record).figures()[0].figure
    return draw(record, options)
