/// The version of daemon and tool.
package enum Version {
    package static var text: String { "0.1.0" }
}
