package import RepldControlAPI

/// What each request asks of whoever sends it.
package enum AccessRule: Hashable, Sendable {
    /// Any user.
    case readOnly
    /// An operator; any user when it only asks what would be done.
    case operatorUnlessPlan
    /// An operator.
    case operatorOnly

    /// The rules, by method and route; what is not in here is for operators.
    ///
    /// Every route has its line, and every line its route: a test compares them.
    package static let table: [String: AccessRule] = [
        "GET /v1/daemon": .readOnly,
        "GET /v1/events": .readOnly,
        "GET /metrics": .readOnly,

        "GET /v1/volumes": .readOnly,
        "POST /v1/volumes": .operatorOnly,
        "GET /v1/volumes/{name}": .readOnly,
        "DELETE /v1/volumes/{name}": .operatorOnly,
        "POST /v1/volumes/{name}/Retry": .operatorOnly,
        "POST /v1/volumes/{name}/Grow": .operatorOnly,
        "POST /v1/volumes/{name}/Serve": .operatorOnly,

        "GET /v1/pairs": .readOnly,
        "POST /v1/pairs": .operatorOnly,
        "GET /v1/pairs/{name}": .readOnly,
        "GET /v1/pairs/{name}/GetSupportedOperations": .readOnly,
        "GET /v1/pairs/{name}/changes": .readOnly,
        "POST /v1/pairs/{name}/SetReplicationRelationship": .operatorUnlessPlan,
        "POST /v1/pairs/{name}/ConfigureResync": .operatorOnly,
        "POST /v1/pairs/{name}/ConfigureRecovery": .operatorOnly,
        "POST /v1/pairs/{name}/Verify": .operatorOnly,
        "POST /v1/pairs/{name}/CancelVerify": .operatorOnly,

        "GET /v1/peers": .readOnly,
        "POST /v1/peers": .operatorOnly,
        "GET /v1/peers/{name}": .readOnly,
        "DELETE /v1/peers/{name}": .operatorOnly,
        "POST /v1/peers/{name}/Configure": .operatorOnly,
        "POST /v1/peers/{name}/Retry": .operatorOnly,

        "GET /v1/jobs": .readOnly,
        "GET /v1/jobs/{id}": .readOnly,
        "POST /v1/jobs/{id}/Cancel": .operatorOnly,
        "GET /v1/aspects": .readOnly,
        "GET /v1/capabilities": .readOnly,
        "GET /v1/capabilities/GetSupportedOperations": .readOnly,
        "GET /v1/capabilities/GetSupportedCopyStates": .readOnly,

        "GET /v1/users": .operatorOnly,
        "POST /v1/users": .operatorOnly,
        "DELETE /v1/users/{name}": .operatorOnly,
        "POST /v1/users/{name}/Password": .operatorOnly,
        "POST /v1/users/{name}/Role": .operatorOnly,
    ]

    /// The rule of a route; `route` is `nil` when there is none, which any user may be told.
    package static func rule(method: String, route: String?) -> AccessRule {
        guard let route else { return .readOnly }
        return table["\(method) \(route)"] ?? .operatorOnly
    }

    /// Whether somebody of `role` may send it.
    package func allows(_ role: UserRole, isPlan: Bool) -> Bool {
        switch (self, role) {
        case (_, .operator), (.readOnly, .readOnly): true
        case (.operatorUnlessPlan, .readOnly): isPlan
        case (.operatorOnly, .readOnly): false
        }
    }
}
