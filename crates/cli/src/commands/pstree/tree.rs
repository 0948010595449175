//! Trees as lines of text.

/// A label with those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) label: String,
    pub(super) children: Vec<Tree>,
}

/// What joins the lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connectors {
    /// To a child that has more after it, and to the last one.
    child: [&'static str; 2],
    /// Beside what is below a child that has more after it, and below the last one.
    beside: [&'static str; 2],
}

impl Connectors {
    pub(super) const BOX: Connectors = Connectors {
        child: ["├── ", "└── "],
        beside: ["│   ", "    "],
    };
    pub(super) const COMPACT: Connectors = Connectors {
        child: ["├─", "└─"],
        beside: ["│ ", "  "],
    };
    pub(super) const ASCII: Connectors = Connectors {
        child: ["|-- ", "`-- "],
        beside: ["|   ", "    "],
    };
}

/// The lines of some trees. With `combine`, equal siblings without children are one line.
pub(super) fn lines(trees: &[Tree], connectors: Connectors, combine: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (label, children) in siblings(trees, combine) {
        lines.push(label);
        below(children, connectors, combine, "", &mut lines);
    }
    lines
}

fn below(
    trees: &[Tree],
    connectors: Connectors,
    combine: bool,
    prefix: &str,
    lines: &mut Vec<String>,
) {
    let siblings = siblings(trees, combine);
    let count = siblings.len();
    for (at, (label, children)) in siblings.into_iter().enumerate() {
        let last = usize::from(at + 1 == count);
        lines.push(format!("{prefix}{}{label}", connectors.child[last]));
        let prefix = format!("{prefix}{}", connectors.beside[last]);
        below(children, connectors, combine, &prefix, lines);
    }
}

/// Labels and children of siblings, each where the first of its equals is.
fn siblings(trees: &[Tree], combine: bool) -> Vec<(String, &[Tree])> {
    let mut counts = std::collections::HashMap::new();
    for tree in trees.iter().filter(|tree| tree.children.is_empty()) {
        *counts.entry(tree.label.as_str()).or_insert(0_usize) += 1;
    }
    let mut siblings = Vec::new();
    for tree in trees {
        if !combine || !tree.children.is_empty() {
            siblings.push((tree.label.clone(), tree.children.as_slice()));
            continue;
        }
        // Once shown, the rest of the equals are passed over.
        match counts.remove(tree.label.as_str()) {
            Some(1) => siblings.push((tree.label.clone(), &[][..])),
            Some(count) => siblings.push((format!("{count}*[{}]", tree.label), &[][..])),
            None => {}
        }
    }
    siblings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(label: &str, children: Vec<Tree>) -> Tree {
        Tree {
            label: label.to_owned(),
            children,
        }
    }

    fn sample() -> Tree {
        let leaf = |label| tree(label, Vec::new());
        tree(
            ".",
            vec![
                leaf("sleep"),
                tree("flux", vec![leaf("a"), leaf("b"), leaf("a")]),
                leaf("sleep"),
                tree("flux", vec![leaf("c")]),
            ],
        )
    }

    #[test]
    fn equal_leaves_are_one_line() {
        let text = lines(&[sample()], Connectors::BOX, true).join("\n");
        let expect = "\
.
├── 2*[sleep]
├── flux
│   ├── 2*[a]
│   └── b
└── flux
    └── c";
        assert_eq!(text, expect);
    }

    #[test]
    fn every_leaf_may_have_its_line() {
        let text = lines(&[sample()], Connectors::ASCII, false).join("\n");
        let expect = "\
.
|-- sleep
|-- flux
|   |-- a
|   |-- b
|   `-- a
|-- sleep
`-- flux
    `-- c";
        assert_eq!(text, expect);
    }

    #[test]
    fn several_trees_may_be_leaves() {
        let leaf = tree("x", Vec::new());
        let trees = [leaf.clone(), tree("y", vec![leaf.clone()]), leaf];
        assert_eq!(
            lines(&trees, Connectors::COMPACT, true),
            ["2*[x]", "y", "└─x"]
        );
    }
}
