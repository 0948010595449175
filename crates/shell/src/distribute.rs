//! How many tasks each node gets.

use std::collections::VecDeque;

/// Gives `ntasks` tasks to nodes with these many cores, `cores_per_task` each.
///
/// The largest nodes come first and take one task in turn; a node without enough cores left drops
/// out, and when all have, the rounds start over. `None` if a task has no cores at all.
pub(crate) fn by_cores(cores: &[u32], cores_per_task: u32, ntasks: u32) -> Option<Vec<u32>> {
    let total: u64 = cores.iter().copied().map(u64::from).sum();
    let wanted = match cores_per_task {
        0 => u32::try_from(total.checked_div(u64::from(ntasks))?).ok()?,
        cores => cores,
    };
    let wanted = wanted.min(cores.iter().copied().min()?);
    if wanted == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..cores.len()).collect();
    order.sort_by_key(|node| std::cmp::Reverse(cores[*node]));
    let mut tasks = vec![0; cores.len()];
    let mut left = Vec::new();
    let mut queue: VecDeque<usize> = VecDeque::new();
    for _ in 0..ntasks {
        loop {
            let Some(node) = queue.pop_front() else {
                left = cores.to_vec();
                queue.extend(&order);
                continue;
            };
            let room: &mut u32 = &mut left[node];
            if *room >= wanted {
                *room -= wanted;
                tasks[node] += 1;
                queue.push_back(node);
                break;
            }
        }
    }
    Some(tasks)
}

#[cfg(test)]
mod tests {
    use super::by_cores;

    #[test]
    fn nodes_take_turns_while_they_have_cores() {
        assert_eq!(by_cores(&[4, 4], 1, 4), Some(vec![2, 2]));
        assert_eq!(by_cores(&[2, 4], 2, 3), Some(vec![1, 2]));
        assert_eq!(by_cores(&[4, 1], 0, 5), Some(vec![4, 1]));
        assert_eq!(by_cores(&[4], 8, 2), Some(vec![2]), "larger than the node");
        assert_eq!(by_cores(&[1, 1], 1, 5), Some(vec![3, 2]), "oversubscribed");
        assert_eq!(by_cores(&[1], 0, 2), None);
        assert_eq!(by_cores(&[], 1, 1), None);
    }
}
