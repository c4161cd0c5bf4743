"""Draws a text table as an SVG picture: table_svg.py <table.txt >docs/demo.svg"""
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 7.83, 19, 16  # of a character at 13 px, of a line, around the text


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    width = 2 * MARGIN + WIDTH * max(map(len, lines))
    height = 2 * MARGIN + HEIGHT * len(lines)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
          f'viewBox="0 0 {width:.0f} {height}">')
    print('<rect width="100%" height="100%" rx="6" fill="#0d1117"/>')
    print('<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" fill="#e6edf3">')
    for number, line in enumerate(lines):
        weight = ' font-weight="bold"' if number < 2 else ""
        y = MARGIN + HEIGHT * number + 14
        # An explicit length keeps columns straight in any monospaced font.
        length = f' textLength="{WIDTH * len(line):.1f}"' if line else ""
        print(f'<text x="{MARGIN}" y="{y}" xml:space="preserve"{weight}{length}>{escape(line)}</text>')
    print("</g></svg>")


main()
