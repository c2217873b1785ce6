//! Linear assignment at the least total cost.

/// Assigns rows to columns with the least total cost, where an unassigned row and an unassigned column
/// together cost `limit`. Returns (row, column) by row.
///
/// `costs` has one vector per row, all of one length. No returned pair costs more than `limit`.
///
/// The Hungarian method with potentials, cubic in rows plus columns; see Burkard, Dell'Amico and
/// Martello 2009, "Assignment Problems", section 4.4.
pub(crate) fn assign(costs: &[Vec<f32>], limit: f32) -> Vec<(usize, usize)> {
    let rows = costs.len();
    let columns = costs.first().map_or(0, Vec::len);
    // Every row gets a dummy column, and every column a dummy row, for those that stay unassigned.
    let size = rows + columns;
    let cost = |row: usize, column: usize| match (row < rows, column < columns) {
        (true, true) => f64::from(costs[row][column]),
        (false, false) => 0.0,
        _ => f64::from(limit) / 2.0,
    };
    let partner_of_column = least_cost(size, cost);
    let mut pairs: Vec<(usize, usize)> = (0..columns)
        .map(|column| (partner_of_column[column], column))
        .filter(|(row, column)| *row < rows && costs[*row][*column] <= limit)
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Row of each column in a complete assignment of least cost.
fn least_cost(size: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let mut row_potential = vec![0.0; size];
    let mut column_potential = vec![0.0; size + 1];
    // The last column is virtual: the row to be assigned next starts there.
    let mut row_of = vec![NONE; size + 1];
    for row in 0..size {
        row_of[size] = row;
        let mut column = size;
        let mut is_done = vec![false; size + 1];
        let mut slack = vec![f64::INFINITY; size];
        let mut came_from = vec![size; size];
        while row_of[column] != NONE {
            is_done[column] = true;
            let row = row_of[column];
            let (mut nearest, mut delta) = (size, f64::INFINITY);
            for next in (0..size).filter(|next| !is_done[*next]) {
                let reduced = cost(row, next) - row_potential[row] - column_potential[next];
                if reduced < slack[next] {
                    (slack[next], came_from[next]) = (reduced, column);
                }
                if slack[next] < delta {
                    (nearest, delta) = (next, slack[next]);
                }
            }
            for done in 0..=size {
                if is_done[done] {
                    row_potential[row_of[done]] += delta;
                    column_potential[done] -= delta;
                } else {
                    slack[done] -= delta;
                }
            }
            column = nearest;
        }
        while column != size {
            let previous = came_from[column];
            row_of[column] = row_of[previous];
            column = previous;
        }
    }
    row_of.truncate(size);
    row_of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_total_counts_not_the_single_pair() {
        let costs = [vec![0.1, 0.2], vec![0.2, 0.9]];
        assert_eq!(assign(&costs, 1.0), [(0, 1), (1, 0)]);
    }

    #[test]
    fn what_is_too_far_apart_stays_alone() {
        assert_eq!(assign(&[vec![0.9, 0.3]], 0.8), [(0, 1)]);
        assert_eq!(assign(&[vec![0.9], vec![0.85]], 0.8), []);
        assert_eq!(assign(&[], 0.8), []);
        assert_eq!(assign(&[vec![], vec![]], 0.8), []);
    }

    /// The least total by trying everything.
    fn least_total(costs: &[Vec<f32>], limit: f32, taken: &mut [bool]) -> f32 {
        let Some((row, rest)) = costs.split_first() else {
            return taken.iter().filter(|taken| !**taken).count() as f32 * limit / 2.0;
        };
        let mut least = limit / 2.0 + least_total(rest, limit, taken);
        for column in 0..row.len() {
            if !taken[column] {
                taken[column] = true;
                least = least.min(row[column] + least_total(rest, limit, taken));
                taken[column] = false;
            }
        }
        least
    }

    proptest! {
        #[test]
        fn nothing_is_cheaper(
            values in prop::collection::vec(0.0f32..1.0, 20), rows in 1usize..5, columns in 1usize..5,
        ) {
            let costs: Vec<Vec<f32>> =
                values.chunks(columns).take(rows).map(<[f32]>::to_vec).collect();
            let pairs = assign(&costs, 0.8);
            let alone = rows + columns - 2 * pairs.len();
            let total: f32 = pairs.iter().map(|(row, column)| costs[*row][*column]).sum();
            let least = least_total(&costs, 0.8, &mut vec![false; columns]);
            prop_assert!((total + alone as f32 * 0.4 - least).abs() < 1e-5);
        }
    }
}
