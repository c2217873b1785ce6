//! Names that files and the network give, before they are joined to a folder.

/// Whether a name can be that of a file or folder and cannot lead out of the folder it is put in.
pub fn is_file_name(name: &str) -> bool {
    let leads_out = |one| matches!(one, '/' | '\\') || (cfg!(windows) && one == ':');
    let is_plain = |one: char| !one.is_control() && !leads_out(one);
    !name.is_empty() && name != "." && name != ".." && name.chars().all(is_plain)
}

/// Whether a path with `/` between its names stays inside the folder it is joined to, on any system.
pub fn stays_inside(path: &str) -> bool {
    !path.contains(':') && path.split('/').all(is_file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_seen() {
        let nowhere = ["", ".", "..", "a\\b", "a\\..\\x", "a\0", "a\nb"];
        let outside = ["/etc/passwd", "../x", "a/..", "a/../../x", "a//b", "a/", "./a", "a/."];
        for name in nowhere.into_iter().chain(outside) {
            assert!(!is_file_name(name), "{name:?} was let through");
            assert!(!stays_inside(name), "{name:?} was let through");
        }
        assert!(!stays_inside("c:x") && !is_file_name("a/b"));
        for name in ["a", "-3g5yACwYnA_13", "J4GQm9j0JZ0.003", "naïve clip", "a..b", ".git"] {
            assert!(is_file_name(name) && stays_inside(name), "{name:?} was refused");
        }
        for path in ["heads/body.safetensors", "onnx/model.onnx", "refs/pr/15"] {
            assert!(stays_inside(path), "{path:?} was refused");
        }
    }
}
