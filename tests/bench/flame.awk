# SPDX-License-Identifier: MIT
#
# A flame graph of what `perf script -F comm,ip,sym,dso` prints, as an SVG of its own, for light and dark
# screens. Frames of less than LEAST of all samples are left out.
#
#   awk -v title=TEXT -f flame.awk
#
# A frame is as wide as its share of the samples; who called it is below. Their order is that of the names.

# The innermost comes first: "ip symbol (dso)".
/^[ \t]+[0-9a-f]+ / {
    name = $0
    sub(/^[ \t]+[0-9a-f]+ /, "", name)
    dso = name
    sub(/.*\(/, "", dso)
    sub(/\)$/, "", dso)
    sub(/ \([^(]*\)$/, "", name)
    sub(/\.(isra|part|constprop|cold)\.[0-9.]*$/, "", name)
    frames[++depth] = name
    kinds[depth] = dso ~ /kernel|\.ko|vdso/ ? "k" : dso ~ /\/hypefs$/ ? "h" : "l"
    next
}

/^$/ { end_sample() }

function end_sample(    path, i) {
    if (depth == 0)
        return
    samples++
    path = ""
    for (i = depth; i > 0; i--) {
        if (frames[i] == "[unknown]")
            continue
        if (!((path, frames[i]) in known)) {
            known[path, frames[i]] = 1
            below[path] = below[path] "\n" frames[i]
        }
        path = path "\n" frames[i]
        count[path]++
        kind[path] = kinds[i]
    }
    depth = 0
}

function escape(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    return text
}

function measure(path, level,    names, n, i) {
    if (level > deepest)
        deepest = level
    n = split(substr(below[path], 2), names, "\n")
    for (i = 1; i <= n; i++)
        if (count[path "\n" names[i]] / samples >= LEAST)
            measure(path "\n" names[i], level + 1)
}

function draw(path, level, x,    names, n, i, j, name, child, width, y, chars) {
    n = split(substr(below[path], 2), names, "\n")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && names[j] < names[j - 1]; j--) {
            name = names[j]
            names[j] = names[j - 1]
            names[j - 1] = name
        }
    for (i = 1; i <= n; i++) {
        child = path "\n" names[i]
        if (count[child] / samples < LEAST)
            continue
        width = count[child] / samples * WIDTH
        y = TOP + (deepest - level - 1) * HEIGHT
        printf "<g><title>%s: %d samples, %.1f %%</title>", escape(names[i]), count[child],
            100 * count[child] / samples
        printf "<rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", kind[child], x, y,
            width, HEIGHT - 1
        chars = int((width - 6) / LETTER)
        if (chars > 3)
            printf "<text x=\"%.1f\" y=\"%d\">%s</text>", x + 3, y + HEIGHT - 5,
                escape(length(names[i]) > chars ? substr(names[i], 1, chars - 1) "…" : names[i])
        print "</g>"
        draw(child, level + 1, x)
        x += width
    }
}

BEGIN {
    WIDTH = 1200
    HEIGHT = 17
    TOP = 44
    LETTER = 6.3
    LEAST = 0.004
}

END {
    end_sample()
    if (samples == 0)
        exit 1
    measure("", 0)
    height = TOP + deepest * HEIGHT + 4
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n", WIDTH, height
    print "<style>"
    print "text { font: 11px ui-monospace, monospace; fill: #1b1b1b; }"
    print ".title { font: bold 14px system-ui, sans-serif; }"
    print ".back { fill: #ffffff; } .h { fill: #f2a65a; } .l { fill: #e8d48b; } .k { fill: #9cc3e0; }"
    print "@media (prefers-color-scheme: dark) {"
    print "text { fill: #f0f0f0; }"
    print ".back { fill: #16181c; } .h { fill: #a3561a; } .l { fill: #6b5d1f; } .k { fill: #2c5876; }"
    print "}"
    print "</style>"
    printf "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n", WIDTH, height
    printf "<text class=\"title\" x=\"4\" y=\"18\">%s</text>\n", escape(title)
    x = 4
    split("h l k", order, " ")
    label["h"] = "hypefs"
    label["l"] = "libraries"
    label["k"] = "kernel"
    for (i = 1; i <= 3; i++) {
        printf "<rect class=\"%s\" x=\"%d\" y=\"26\" width=\"12\" height=\"12\"/>", order[i], x
        printf "<text x=\"%d\" y=\"36\">%s</text>\n", x + 16, label[order[i]]
        x += 100
    }
    printf "<text x=\"%d\" y=\"36\">%d samples</text>\n", x, samples
    draw("", 0, 0)
    print "</svg>"
}
