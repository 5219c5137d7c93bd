"""What was measured: medians, tables for people, and pictures of bars in SVG."""

from xml.sax.saxutils import escape

COLOURS = ["#2f6f9f", "#d98032", "#5a9a57", "#a35a8f", "#8a8a8a", "#b8a13a", "#4c4c80", "#c05050"]
BAR, GAP, LEFT, WIDTH, RIGHT = 16, 14, 250, 420, 130


def median(values):
    """The middle one, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_ratio(values, others):
    """The median of the ratios that the rounds gave."""
    return median([own / its for own, its in zip(values, others)])


def quantile(ordered, share):
    """The value that a share of the ordered values stays under."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def short(value):
    """A number with three digits that say something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(rows):
    """Prints rows of text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = [cell.rjust(width) if place else cell.ljust(width)
                          for place, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join([first, *others]).rstrip())


def text(x, y, words, anchor="start", weight="normal"):
    """One line of a picture's text."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>')


def write_picture(path, title, results):
    """Draws the medians of `results`, lists by (group, name), as bars with a line from the least to the most.

    Each group has a scale of its own, because what is done at depth 1 and at depth 128 would not fit into one; `None` for a
    path draws nothing.
    """
    if path is None:
        return
    groups = {}
    for (group, name), values in results.items():
        groups.setdefault(group, []).append((name, values))
    colours = {}
    for _, name in results:
        colours.setdefault(name, COLOURS[len(colours) % len(COLOURS)])
    parts, y = [text(10, 22, title, weight="bold")], 40
    for group, bars in groups.items():
        parts.append(text(10, y + BAR - 4, group, weight="bold"))
        y += BAR + 4
        largest = max(max(values) for _, values in bars) or 1
        for name, values in bars:
            middle, ends = median(values), [LEFT + WIDTH * value / largest for value in (min(values), max(values))]
            parts.append(text(LEFT - 8, y + BAR - 4, name, anchor="end"))
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH * middle / largest:.1f}" height="{BAR - 3}" '
                         f'fill="{colours[name]}"/>')
            parts.append(f'<path d="M{ends[0]:.1f} {y + BAR / 2 - 1.5}H{ends[1]:.1f}" stroke="#222"/>')
            parts.append(text(LEFT + WIDTH + 8, y + BAR - 4, short(middle)))
            y += BAR
        y += GAP
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{y}"'
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
                   f'<rect {size} fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
