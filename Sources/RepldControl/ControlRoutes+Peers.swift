internal import Hummingbird
internal import RepldControlAPI

/// The other hosts that pairs may reach to
extension ControlRoutes {
    func addPeers(to router: Router<BasicRequestContext>) {
        router.get("v1/peers") { _, _ in try Self.json(PeerListReply(peers: await service.peerList())) }
        router.post("v1/peers") { request, _ in
            let body = try await Self.body(PeerAddRequest.self, of: request)
            return try Self.json(await service.addPeer(body), status: .created)
        }
        router.get("v1/peers/:name") { _, context in
            try Self.json(await service.peer(named: context.parameters.require("name")))
        }
        router.delete("v1/peers/:name") { _, context in
            try await service.removePeer(named: context.parameters.require("name"))
            return try Self.json(MethodReply(returnCode: .success))
        }
        router.post("v1/peers/:name/Configure") { request, context in
            let body = try await Self.body(PeerConfigureRequest.self, of: request)
            return try Self.json(await service.configurePeer(named: context.parameters.require("name"), body))
        }
        router.post("v1/peers/:name/Retry") { _, context in
            try Self.json(await service.retryPeer(named: context.parameters.require("name")))
        }
    }
}
