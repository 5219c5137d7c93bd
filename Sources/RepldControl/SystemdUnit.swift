/// The unit file that `repld systemd-unit` prints.
package enum SystemdUnit {
    /// A hardened unit for the daemon at `executable`.
    ///
    /// It keeps what the daemon needs: block devices, its two sockets, io_uring. There is no PrivateDevices and no
    /// DevicePolicy, because any block device may become an element.
    package static func text(executable: String, configuration: String?) -> String {
        let arguments = configuration.map { " --config \($0)" } ?? ""
        return """
            # Save as /etc/systemd/system/repld.service, then: systemctl daemon-reload && systemctl enable --now repld
            [Unit]
            Description=repld block replication
            After=local-fs.target network-online.target
            Wants=network-online.target

            [Service]
            Type=notify
            NotifyAccess=main
            ExecStart=\(executable)\(arguments)
            Restart=on-failure
            RestartSec=2
            RestartPreventExitStatus=64 65 77 78
            WatchdogSec=30
            TimeoutStopSec=90
            StateDirectory=repld
            StateDirectoryMode=0700
            RuntimeDirectory=repld
            RuntimeDirectoryMode=0755
            UMask=0077
            LimitNOFILE=65536
            LimitMEMLOCK=infinity
            OOMScoreAdjust=-900

            NoNewPrivileges=yes
            ProtectSystem=full
            ProtectKernelTunables=yes
            ProtectKernelModules=yes
            ProtectKernelLogs=yes
            ProtectControlGroups=yes
            ProtectClock=yes
            ProtectHostname=yes
            PrivateTmp=yes
            RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
            RestrictNamespaces=yes
            RestrictRealtime=yes
            RestrictSUIDSGID=yes
            LockPersonality=yes
            MemoryDenyWriteExecute=yes
            SystemCallArchitectures=native
            SystemCallFilter=@system-service @io-event io_uring_setup io_uring_enter io_uring_register
            SystemCallErrorNumber=EPERM

            [Install]
            WantedBy=multi-user.target

            """
    }
}
