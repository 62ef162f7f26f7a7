//! At rest, who is said to be online is who is: one entry per live connection.

/// Compares what the router says with the real connections; both as (user, flag), in any order.
pub fn agree(mut said: Vec<(usize, u8)>, mut real: Vec<(usize, u8)>) -> Result<(), String> {
    said.sort_unstable();
    real.sort_unstable();
    if said == real { Ok(()) } else { Err(format!("online are said to be {said:?}, really are {real:?}")) }
}
