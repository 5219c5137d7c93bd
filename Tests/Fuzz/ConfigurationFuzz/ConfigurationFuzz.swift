import Foundation
import RepldControl
import RepldCore

/// Stands for nothing that the file could say.
let fileName = "/etc/repld/repld.yaml"

/// What no configuration may be, whatever the file said.
func check(_ configuration: Configuration) {
    let control = configuration.control
    invariant(configuration.stateDirectory.hasPrefix("/"), "the state directory is an absolute path")
    for path in [control.socketPath] + (configuration.nbdSocket.map { [$0] } ?? []) {
        invariant(path.hasPrefix("/") && path.utf8.count <= ControlListening.socketPathByteLimit, "a socket has a path")
    }
    invariant(control.socketMode <= 0o777 && configuration.nbdSocketMode <= 0o777, "permissions are those of files")
    invariant(control.tcp.allSatisfy { ControlListening.fault(of: $0) == nil }, "passwords do not leave this host")
    let hosts = control.tcp + configuration.nbdListen + (configuration.peerListen.map { [$0] } ?? [])
    let texts = hosts.map(\.host) + [configuration.stateDirectory, control.socketPath, configuration.nbdSocket ?? ""]
    invariant(!texts.joined().utf8.contains(0), "what the system is told ends where the file says")
    invariant(PairSettingsRule.fault(of: configuration.pairDefaults) == nil, "a pair may have the defaults")
    invariant(
        configuration.frontEnds.count == configuration.nbdListen.count + (configuration.nbdSocket == nil ? 0 : 1),
        ""
    )
}

/// Whatever a file says gives a configuration or a refusal that names the file and has words.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let data = bytes.map { Data(bytes: $0, count: count) } ?? Data()
    do throws(ConfigurationError) {
        check(try Configuration.parse(data, file: fileName))
    } catch {
        invariant(error.file == fileName && !error.message.isEmpty, "a refusal has words")
        invariant(error.line >= 0 && error.column >= 0, "a refusal has a place, or none")
        invariant(error.description.hasPrefix(fileName), "a refusal names the file")
        invariant(error.message.utf8.count <= 4096, "a refusal can be read")
    }
    return 0
}
