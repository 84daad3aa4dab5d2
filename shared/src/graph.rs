//! Strongly connected components, targets first.
//!
//! The order is stable: nodes are visited by number, and a node comes after
//! everything it points to and otherwise in its own place. No recursion, so a
//! chain of any length is fine.

/// Groups the nodes `0..edges.len()` into strongly connected components. A
/// component comes after every component it points to; unrelated nodes keep
/// their order. Inside a component the nodes are ascending.
pub(crate) fn components(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let mut found = Vec::new();
    let mut number = vec![UNSEEN; edges.len()];
    let mut low = vec![0; edges.len()];
    let mut on_stack = vec![false; edges.len()];
    let mut stack = Vec::new();
    let mut count = 0;
    for root in 0..edges.len() {
        if number[root] != UNSEEN {
            continue;
        }
        // Each call frame is a node and how many of its edges are done.
        let mut calls = vec![(root, 0)];
        while let Some((node, done)) = calls.pop() {
            if done == 0 {
                number[node] = count;
                low[node] = count;
                count += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some(&target) = edges[node].get(done) {
                calls.push((node, done + 1));
                if number[target] == UNSEEN {
                    calls.push((target, 0));
                } else if on_stack[target] {
                    low[node] = low[node].min(number[target]);
                }
                continue;
            }
            if low[node] == number[node] {
                let start = stack
                    .iter()
                    .rposition(|&n| n == node)
                    .expect("BUG: root is on the stack");
                let mut group = stack.split_off(start);
                for &member in &group {
                    on_stack[member] = false;
                }
                group.sort_unstable();
                found.push(group);
            }
            if let Some(&(caller, _)) = calls.last() {
                low[caller] = low[caller].min(low[node]);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_first_and_cycles_together() {
        // 0 → 3, 1 alone, 2 ⇄ 4, 4 → 1, 5 → 5
        let edges = vec![vec![3], vec![], vec![4], vec![], vec![2, 1], vec![5]];
        assert_eq!(
            components(&edges),
            vec![vec![3], vec![0], vec![1], vec![2, 4], vec![5]]
        );
        assert_eq!(components(&[]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn unrelated_nodes_keep_their_order() {
        let edges = vec![vec![]; 5];
        assert_eq!(components(&edges).concat(), vec![0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let edges: Vec<Vec<usize>> = (0..200_000)
            .map(|n| if n + 1 < 200_000 { vec![n + 1] } else { vec![] })
            .collect();
        let found = components(&edges);
        assert_eq!(found.first(), Some(&vec![199_999]));
        assert_eq!(found.last(), Some(&vec![0]));
    }
}
